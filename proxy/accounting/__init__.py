"""What calls cost: from token counts to a ledger that loses nothing.

    usage      token counts of one answer, or our estimate          usage.py
    price      what a model costs, as integers                      money.py rates.py catalog.py prices.py
    charge     usage and price of one attempt                       charge.py
    ticket     one call on its way through here                     ticket.py
    journal    what must survive, appended to a local file          record.py segments.py journal.py
    ledger     rows and roll-ups in SQLite or PostgreSQL            ledger/ writer.py
    budget     what may still be spent                              windows.py budgets.py line.py restore.py
    report     what was spent                                       histogram.py reports.py
    books      all of it for one configuration; the process' store  books.py

Money is whole nano-dollars everywhere. A record goes account policy -> journal (before the call's last piece leaves)
-> ledger (some seconds later, exactly once).
"""
