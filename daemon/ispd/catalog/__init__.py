"""The catalog: data files and image files in, model objects out (floor 2). Imports errors, model, msgspec and intelhex."""
