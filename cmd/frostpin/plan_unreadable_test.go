package main

import (
	"strings"
	"testing"

	"gorm.io/gorm"

	"github.com/frostpin/frostpin/cmd/database"
)

func TestAPlanThatCannotBeReadIsShownAndCanBeMended(t *testing.T) {
	eachDatabase(t, func(t *testing.T, dsn string, db *database.DB) {
		environ := []string{"HOME=" + t.TempDir(), "FROSTPIN_DATABASE=" + dsn, "FROSTPIN_NETWORK=private", "FROSTPIN_LISTEN=127.0.0.1:0"}
		plan := func(want int, args ...string) string {
			t.Helper()
			code, stdout, stderr := command(t, environ, append([]string{"plan"}, args...)...)
			if code != want {
				t.Fatalf("%v: exit %d: %s", args, code, stderr)
			}
			return stdout + stderr
		}
		damage := func(name, limits string) {
			t.Helper()
			plan(0, "set", name)
			err := db.Write(t.Context(), func(tx *gorm.DB) error {
				return tx.Exec(`UPDATE plans SET limits = ? WHERE name = ?`, limits, name).Error
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		doctor := func() string {
			t.Helper()
			_, stdout, _ := command(t, environ, "doctor")
			return stdout
		}
		if got := doctor(); strings.Contains(got, "cannot be read") {
			t.Errorf("with plans that can be read: %s", got)
		}
		damage("small", `{"pins":7,"bytes":"many"}`)
		damage("dear", `{"prices":{"hot_gib_month":"much"}}`)
		if got := doctor(); !strings.Contains(got, "small") || !strings.Contains(got, "dear") || !strings.Contains(got, "plan set NAME --anew") {
			t.Errorf("the doctor says nothing of them: %s", got)
		}
		if got := plan(0, "list"); !strings.Contains(got, "trusted") || !strings.Contains(got, "small    cannot be read") {
			t.Errorf("listed: %s", got)
		}
		if got := plan(0, "list", "--json"); !strings.Contains(got, `"unreadable": true`) || strings.Contains(got, `"pins": 7`) {
			t.Errorf("listed: %s", got)
		}
		// Nothing is taken for unbounded that nobody has said.
		if got := plan(1, "set", "small", "--pins", "5"); !strings.Contains(got, "--anew") {
			t.Errorf("changing what cannot be read: %s", got)
		}
		plan(0, "set", "small", "--anew", "--pins", "5")
		plan(0, "set", "dear", "--anew", "--price", "hot_gib_month=1")
		if got := plan(0, "show", "small"); !strings.Contains(got, "5") {
			t.Errorf("mended: %s", got)
		}
		if got := doctor(); strings.Contains(got, "--anew") {
			t.Errorf("with all mended: %s", got)
		}
	})
}
