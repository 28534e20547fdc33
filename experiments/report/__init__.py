"""What lies in a folder, as one page.

    python -m experiments.report runs/compare --out=runs/compare/report.html

Question, figures, tables, commands and environment of every experiment whose rows are below the folder, in one HTML
file without remote assets.
"""
