"""The paper's tables on the embedded world: `pdmd reproduce`.

work.py      how large, where, which students: trained once, shared by the tables
sweep.py     each method's learning rate, chosen on prompts that are not the benchmark's
kept.py      results that are committed, so that the next session or machine goes on from them
measure.py   students and base through the suites, values by prompt and training seed
decided.py   at which noise level the base decides what
verdict.py   an ordering holds, does not hold or is undecided; pure
table.py     parts, rows and orderings as data
making.py    a table made: students, results, verdicts
writing.py   what was found -> JSON, Markdown
figure2.py, modes.py, table2.py, table3.py, target.py, intervals.py, phases.py, freeze.py, longer.py, power.py
             one a table
"""
