package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

// manyPins makes a data directory with so many pins in one account, and returns the flag that names it.
func manyPins(t *testing.T, n int) string {
	t.Helper()
	dir := t.TempDir()
	db, err := database.Open(t.Context(), filepath.Join(dir, "frostpin.db"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Migrate(t.Context(), migrations()...); err != nil {
		t.Fatal(err)
	}
	account, err := auth.New(db, time.Now).CreateAccount(t.Context(), auth.Operator(), "ann", auth.Trusted)
	if err != nil {
		t.Fatal(err)
	}
	tier := pinstest.NewTier()
	service := pins.New(pins.Config{}, db, tier, slog.New(slog.DiscardHandler), time.Now)
	for i := range n {
		root := pinstest.Raw(fmt.Sprint(i)).Cid()
		if _, err := service.Add(t.Context(), pins.Account(account.ID), spec.Request{CID: root.String(), Root: root}, pins.Decision{Terms: pins.Undecided}); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return "--data-dir=" + dir
}

func TestPinsListShowsEachPinOnceHoweverManyPagesThereAre(t *testing.T) {
	const n = 2*pageSize + 1
	dataDir := manyPins(t, n)
	for args, want := range map[string]int{"": n, "--limit=1500": 1500, "--limit=5000": n, "--status=failed": 0} {
		code, stdout, stderr := command(t, nil, append([]string{"pins", "list", "--json", dataDir}, strings.Fields(args)...)...)
		if code != 0 {
			t.Fatalf("%s: exit code %d: %s", args, code, stderr)
		}
		var listed []pinLine
		if err := json.Unmarshal([]byte(stdout), &listed); err != nil {
			t.Fatalf("%s: %v", args, err)
		}
		seen := make(map[string]bool)
		for _, p := range listed {
			seen[p.ID] = true
		}
		if len(listed) != want || len(seen) != want {
			t.Errorf("%s: %d pins, %d of them different, want %d", args, len(listed), len(seen), want)
		}
	}
	code, stdout, _ := command(t, nil, "pins", "list", dataDir)
	if lines := strings.Count(stdout, "\n"); code != 0 || lines != n+1 {
		t.Errorf("exit code %d and %d lines, want a heading and %d pins", code, lines, n)
	}
}

func TestCommandsRefuseADatabaseOfAnotherRelease(t *testing.T) {
	dir := t.TempDir()
	db, err := database.Open(context.Background(), filepath.Join(dir, "frostpin.db"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Migrate(t.Context(), auth.Migrations()...); err != nil { // as a release without pins would have left it
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := command(t, nil, "token", "create", "--data-dir="+dir)
	if code != 1 || !strings.Contains(stderr, "run `frostpin serve` of this release once") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	code, stdout, _ := command(t, nil, "doctor", "--data-dir="+dir, "--network=private", "--listen=127.0.0.1:0")
	if code != 0 || !strings.Contains(stdout, "is of an older release") {
		t.Errorf("exit code %d: %s", code, stdout)
	}
}
