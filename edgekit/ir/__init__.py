"""The one model that every pass works on: an encoder whose layers may each have other widths.

`config` holds the shape, `encoder` the trainable form, `lean` the form that is exported, `surgery` the cuts that
passes make. Nothing here is imported by `import edgekit`: see `edgekit.registration`.
"""
