package main

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestOnlyWhatTakesLongReportsProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var printed bytes.Buffer
		log := slog.New(slog.NewTextHandler(&printed, nil))
		for _, test := range []struct {
			takes time.Duration
			lines int
		}{{time.Second, 0}, {3 * time.Second, 1}, {8 * time.Second, 2}} {
			printed.Reset()
			timer := time.NewTimer(test.takes)
			if err := during(log, "working", func() error { <-timer.C; return nil }); err != nil {
				t.Error(err)
			}
			if got := strings.Count(printed.String(), "still working"); got != test.lines {
				t.Errorf("%v: %d lines, want %d:\n%s", test.takes, got, test.lines, printed.String())
			}
		}
	})
}

func TestStopIsBoundedWhateverStillRuns(t *testing.T) {
	for name, test := range map[string]struct {
		takes, want time.Duration
		fails       bool
	}{
		"quick": {time.Second, time.Second, false},
		"stuck": {time.Hour, 10 * time.Second, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, stop := context.WithCancel(t.Context())
				released := make(chan struct{})
				started := time.Now()
				stop()
				err := endWithin(ctx, 10*time.Second, slog.New(slog.DiscardHandler), func(ctx context.Context) error {
					<-ctx.Done()
					select {
					case <-time.After(test.takes):
					case <-released:
					}
					return nil
				})
				if took := time.Since(started); took != test.want || (err != nil) != test.fails {
					t.Errorf("it took %v and returned %v", took, err)
				}
				close(released)
			})
		})
	}
}

func TestOneServerPerDataDirectory(t *testing.T) {
	dir := t.TempDir()
	if p, err := running(dir); p != nil || err != nil {
		t.Errorf("nothing runs, got %v, %v", p, err)
	}
	unlock, err := lockDataDir(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockDataDir(t.Context(), dir); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("a second lock: %v", err)
	}
	if _, err := running(dir); err == nil {
		t.Error("a server that has not said where it is was found")
	}
	here := presence{PID: 1, Started: time.Unix(1, 0).UTC(), Listening: "127.0.0.1:1", Endpoint: "http://127.0.0.1:1/psa"}
	if err := here.write(dir); err != nil {
		t.Fatal(err)
	}
	if p, err := running(dir); err != nil || p == nil || p.Endpoint != here.Endpoint {
		t.Errorf("got %v, %v", p, err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	if p, err := running(dir); p != nil || err != nil {
		t.Errorf("a killed server's description was believed: %v, %v", p, err)
	}
	unlock, err = lockDataDir(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := unlock(); err != nil {
		t.Error(err)
	}
}

func TestDataDirectoryKeepsItsName(t *testing.T) {
	dir := t.TempDir()
	first, err := instanceID(dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := instanceID(dir)
	if err != nil || again != first || first == "" {
		t.Errorf("got %q, %v after %q", again, err, first)
	}
	if other, err := instanceID(t.TempDir()); err != nil || other == first {
		t.Errorf("two directories have the name %q, %v", other, err)
	}
}
