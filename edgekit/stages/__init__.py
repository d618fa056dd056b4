"""The passes, in the order in which they run. A stage whose output is given (a fine-tuned model) is left out."""

from __future__ import annotations

from edgekit.stages.baseline import Baseline
from edgekit.stages.benchmark import Benchmark
from edgekit.stages.bundle import Pack
from edgekit.stages.calibrate import Calibrate
from edgekit.stages.compile import Compile
from edgekit.stages.data import ReadData
from edgekit.stages.distill import Distill
from edgekit.stages.equalise import Equalise
from edgekit.stages.evaluate import Evaluate
from edgekit.stages.export import Export
from edgekit.stages.finetune import Finetune
from edgekit.stages.floor import Linear
from edgekit.stages.gate import Gate
from edgekit.stages.lint import Lint
from edgekit.stages.outline import Outlining
from edgekit.stages.profile import Profile
from edgekit.stages.prune import Prune
from edgekit.stages.quantize import Quantize
from edgekit.stages.reference import Compare
from edgekit.stages.score import Score
from edgekit.stages.search import Search
from edgekit.stages.select import Select
from edgekit.stages.teach import Teach
from edgekit.stages.timing import Time
from edgekit.stages.trim import Trim

ORDER = (
    ReadData,  # raw data        → labelled data
    Finetune,  # model           → teacher
    Lint,  # teacher         → remarks on what int8 will cost
    Linear,  # labelled data   → what a linear model reaches
    Trim,  # teacher         → vocabulary
    Teach,  # teacher         → its outputs on train and dev
    Outlining,  # teacher         → what its parts are worth
    Profile,  # the target      → what shapes of students cost, on a device
    Search,  # outline, costs  → structure of the student
    Distill,  # teacher         → wide student
    Score,  # wide student    → what its heads and channels are worth
    Prune,  # wide student    → student
    Compare,  # both            → their logits on test
    Baseline,  # teacher         → float graph, the base of every ratio
    Equalise,  # student         → equalised student
    Export,  # equalised student → float graph
    Calibrate,  # float graph     → ranges
    Quantize,  # graph, ranges   → integer candidates
    Time,  # candidates      → what each costs, on a device
    Select,  # candidates      → int8 graph
    Compile,  # int8 graph      → program
    Evaluate,  # program         → accuracy, on a device
    Benchmark,  # program, teacher → latency or instructions, on a device
    Gate,  # figures         → verdict
    Pack,  # program         → bundle
)

SEARCHING = (Outlining, Profile, Search)
"""What is left out where the recipe gives the student's structure."""
