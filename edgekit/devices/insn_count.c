/* Counts the guest instructions that qemu executes, up to marks that the guest makes: a TCG plugin for plain gcc.
 *
 * A mark is a close() of MARK_FD, a file descriptor that nobody has open: the runner makes one between its passes. At
 * each mark the total of the thread that made it is written as a line to the file named by the argument out=FILE.
 * Marks rather than the total at exit, so that one process gives the count of a pass without start-up and load. One
 * thread rather than all, because a thread that a library keeps for itself would add to it whenever it wakes up.
 *
 * It declares the few functions of the plugin API that it needs, because distributions do not ship the header. They
 * have kept their form since the API's first version; PLUGIN_VERSION is the number that this qemu asks for. A call at
 * each translation block rather than the inline counter: that one is not safe with several threads in qemu 7 and is
 * gone in qemu 9.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define SYS_CLOSE 57 /* on aarch64 */
#define SLOTS 1024   /* threads, far more than the runner has; any beyond are not counted */

typedef void mark_cb(uint64_t id, unsigned vcpu, int64_t number, uint64_t fd, uint64_t, uint64_t, uint64_t, uint64_t,
                     uint64_t, uint64_t, uint64_t);
struct qemu_plugin_tb;
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*cb)(uint64_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, void (*cb)(unsigned, void *), int flags, void *arg);
void qemu_plugin_register_vcpu_syscall_cb(uint64_t id, mark_cb *cb);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);

EXPORT int qemu_plugin_version = PLUGIN_VERSION;

static struct { uint64_t count; char cache_line[56]; } threads[SLOTS];
static FILE *out;

static void executed(unsigned vcpu, void *instructions)
{
    if (vcpu < SLOTS)
        threads[vcpu].count += (uintptr_t)instructions; /* no other thread writes here */
}

static void translated(uint64_t id, struct qemu_plugin_tb *tb)
{
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, 0, (void *)(uintptr_t)qemu_plugin_tb_n_insns(tb));
}

static void called(uint64_t id, unsigned vcpu, int64_t number, uint64_t fd, uint64_t a2, uint64_t a3, uint64_t a4,
                   uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    (void)id, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number != SYS_CLOSE || fd != MARK_FD || vcpu >= SLOTS)
        return;
    fprintf(out, "%llu\n", (unsigned long long)threads[vcpu].count);
    fflush(out);
}

EXPORT int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
    (void)info;
    if (argc != 1 || strncmp(argv[0], "out=", 4) || !(out = fopen(argv[0] + 4, "w")))
        return -1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
