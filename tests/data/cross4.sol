Route #1: 1 4
Route #2: 2 3
Cost 24
