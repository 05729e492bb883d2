"""The experiments of the papers: their arms, tables, pictures and claims."""
