package server_test

import (
	"testing"
	"time"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
)

// publicRates are those that the public plan is shipped with.
func publicRates(t *testing.T) map[auth.Kind]auth.Rate {
	t.Helper()
	db := databasetest.Open(t)
	if err := db.Migrate(t.Context(), auth.Migrations()...); err != nil {
		t.Fatal(err)
	}
	plan, err := auth.New(db, time.Now).Plan(t.Context(), auth.Public)
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Limits.Rates) != len(auth.Kinds()) {
		t.Errorf("the public plan bounds %v only", plan.Limits.Rates)
	}
	return plan.Limits.Rates
}
