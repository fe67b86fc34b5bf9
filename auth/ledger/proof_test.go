package ledger_test

const childDSN = "FROSTPIN_LEDGER_CHILD"

func child(string) int { return 0 }
