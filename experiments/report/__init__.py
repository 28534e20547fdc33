"""What lies in a folder, as one page.

    python -m experiments.report runs/compare --out=runs/compare/report.html

Question, commands, figures, tables and environment of every experiment whose rows are in the folder or at any depth
below it, in one HTML file that fetches nothing. The head of a column sorts by it. --csv=FOLDER writes the rows of each
section as a spreadsheet, too, with formulas made text.
"""
