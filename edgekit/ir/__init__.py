"""The one model that every pass works on: an encoder whose layers may each have other widths.

`config` holds the shape, `encoder` the trainable form, `product` its matrix products, `lean` the form that is exported,
`surgery` the cuts that passes make, `neighbours` which words are alike, `equalise` the scales that they move,
`simulate` what integers will answer.
Nothing here is imported by `import edgekit`: see `edgekit.registration`.
"""
