package main

import "testing"

func TestAmountsReadBackAsTheyAreWritten(t *testing.T) {
	for text, atto := range map[string]string{
		"0": "0", "50000000": "50000000", "1FIL": "1000000000000000000", "0.25 FIL": "250000000000000000",
		"7attofil": "7", "0.000000000000000001fil": "1", "12345678901234567890123": "12345678901234567890123",
	} {
		a, err := parseAmount(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if got := a.Tokens().String(); got != atto {
			t.Errorf("%s: read %s attoFIL, want %s", text, got, atto)
		}
		again, err := parseAmount(a.String())
		if err != nil || again.Tokens().String() != atto {
			t.Errorf("%s: written as %s and read as %v, %v", text, a, again, err)
		}
	}
}

func TestAmountsThatAreNoneAreRefused(t *testing.T) {
	for _, text := range []string{"", "FIL", "-1", "+1", "1.5", "1e18", "0.0000000000000000001FIL", "1/2FIL", "1 FIL FIL", "..", "1,5FIL", "NaN"} {
		if a, err := parseAmount(text); err == nil {
			t.Errorf("%q was read as %s attoFIL", text, a.Tokens())
		}
	}
}

func TestSpansAreWholeEpochs(t *testing.T) {
	s, err := parseSpan("72h")
	if err != nil || s.Epochs() != 8640 || s.String() != "72h" {
		t.Errorf("72h was read as %d epochs, %s, %v", s.Epochs(), s, err)
	}
	for _, text := range []string{"", "-30s", "31s", "3 days"} {
		if s, err := parseSpan(text); err == nil {
			t.Errorf("%q was read as %d epochs", text, s.Epochs())
		}
	}
}
