"""A recipe as a graph of what happens to the model, stage by stage; as text for Mermaid, or drawn as SVG and PNG."""
