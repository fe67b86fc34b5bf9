package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	only := flags.String("run", ".", "measure only what matches")
	rows := flags.String("rows", ".", "of the gateway, measure only the readings that match")
	quick := flags.Bool("quick", false, "a tenth of the load: to see that it works, not to quote")
	binary := flags.String("binary", "", "measure this frostpin instead of building one")
	static := flags.String("static", "", "serve the static handler on this address (used by bench itself)")
	inserts := flags.String("inserts", "", "with -static: insert what is posted into this database (used by bench itself)")
	making := flags.String("piece", "", "measure making a piece (used by bench itself)")
	crowd := flags.String("crowd", "", "run a devnet with many active deals (used by bench itself)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *static != "" {
		return serveStatic(ctx, *static, *inserts)
	}
	if *making != "" {
		return measurePiece(ctx, *making)
	}
	if *crowd != "" {
		return serveCrowd(ctx, *crowd)
	}
	match, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	matchRows, err := regexp.Compile(*rows)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "frostpin-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{dir: dir, binary: filepath.Join(dir, "frostpin"), scale: 1, rows: matchRows}
	if *quick {
		b.scale = 10
	}
	if *binary != "" {
		b.binary = *binary
		return b.table(ctx, match)
	}
	build := exec.CommandContext(ctx, "go", "build", "-o", b.binary, "./cmd/frostpin")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("building frostpin: %w", err)
	}
	return b.table(ctx, match)
}

// table measures what matches and prints it.
func (b *bench) table(ctx context.Context, match *regexp.Regexp) error {
	fmt.Printf("%s, %d processors, %s\n\n", runtime.Version(), runtime.NumCPU(), time.Now().UTC().Format(time.RFC3339))
	fmt.Println("| figure | measured | floor or peer | ratio | goal | |")
	fmt.Println("|---|---|---|---|---|---|")
	for _, m := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"idle", b.idle},
		{"post", b.post},
		{"get", b.get},
		{"million", b.million},
		{"local", b.local},
		{"unfindable", b.unfindable},
		{"bombs", b.bombs},
		{"piece", b.piece},
		{"deals", b.deals},
		{"gateway", b.gateway},
	} {
		if match.MatchString(m.name) {
			if err := b.measure(ctx, m.run); err != nil {
				return fmt.Errorf("measuring %s: %w", m.name, err)
			}
		}
	}
	return nil
}

// measure measures one thing and ends what was started for it and still runs, as it does when something has failed or the
// bench was interrupted.
func (b *bench) measure(ctx context.Context, run func(context.Context) error) error {
	defer func() {
		for _, cmd := range b.started {
			if cmd.ProcessState == nil { // nobody has waited for it
				_ = cmd.Process.Kill() // it may have ended just now
				_ = cmd.Wait()         // that it was killed is known
			}
		}
		b.started = nil
	}()
	return run(ctx)
}

// A bench knows where things are and how much to do.
type bench struct {
	dir    string
	binary string
	scale  int
	rows   *regexp.Regexp // of the gateway

	started []*exec.Cmd // for what is measured now
	plugins bool        // of Kubo are registered in this process
}

// A goal is what a ratio should be at least, or at most.
type goal struct {
	value  float64
	atMost bool
}

func atLeast(v float64) goal { return goal{v, false} }
func atMost(v float64) goal  { return goal{v, true} }

func (g goal) String() string {
	if g.atMost {
		return fmt.Sprintf("<= %.4g", g.value)
	}
	return fmt.Sprintf(">= %.4g", g.value)
}

func (g goal) verdict(v float64) string {
	if v == g.value || (v < g.value) == g.atMost {
		return "ok"
	}
	return "MISSED"
}

// ratio prints a line whose goal is a ratio of two measured values.
func ratio(what, unit string, measured, floor float64, g goal) {
	fmt.Printf("| %s | %.4g %s | %.4g %s | %.2f | %s | %s |\n", what, measured, unit, floor, unit, measured/floor, g, g.verdict(measured/floor))
}

// noted prints a line of two measured values that has no goal and tells how to read others.
func noted(what, unit string, measured, floor float64) {
	fmt.Printf("| %s | %.4g %s | %.4g %s | %.2f | | |\n", what, measured, unit, floor, unit, measured/floor)
}

// absolute prints a line whose goal is a value.
func absolute(what, unit string, measured float64, g goal) {
	fmt.Printf("| %s | %.4g %s | | | %s %s | %s |\n", what, measured, unit, g, unit, g.verdict(measured))
}

// quantile returns the q-quantile of durations in milliseconds.
func quantile(d []time.Duration, q float64) float64 {
	s := slices.Sorted(slices.Values(d))
	return float64(s[min(len(s)-1, int(q*float64(len(s))))]) / 1e6
}

// rssMB returns the resident memory of a process in MB, where the system tells.
func rssMB(pid int) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		var kb float64
		if n, _ := fmt.Sscanf(line, "VmRSS: %f kB", &kb); n == 1 {
			return kb / 1000, nil
		}
	}
	return 0, fmt.Errorf("no VmRSS for process %d", pid)
}
