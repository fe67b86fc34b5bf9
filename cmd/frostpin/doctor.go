package main

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"
)

// How bad a finding is.
const (
	levelOK   = "ok"
	levelWarn = "warn"
	levelFail = "FAIL"
)

// A finding is one line of the doctor's report.
type finding struct {
	Check  string `json:"check"`
	Level  string `json:"level"`
	Detail string `json:"detail"`
	Advice string `json:"advice,omitempty"` // what to do; empty when all is well
}

// A doctor examines one installation. Its checks look and do not repair; the database and the hot tier are opened as
// a server would open them, when none is running.
type doctor struct {
	config   *loaded
	log      *slog.Logger
	server   *presence // nil when none is running
	findings []finding
}

func (d *doctor) ok(check, format string, args ...any) {
	d.findings = append(d.findings, finding{Check: check, Level: levelOK, Detail: fmt.Sprintf(format, args...)})
}

func (d *doctor) warn(check, advice, format string, args ...any) {
	d.findings = append(d.findings, finding{check, levelWarn, fmt.Sprintf(format, args...), advice})
}

func (d *doctor) fail(check, advice, format string, args ...any) {
	d.findings = append(d.findings, finding{check, levelFail, fmt.Sprintf(format, args...), advice})
}

func (p *program) doctorCommand() *cobra.Command {
	return withAllSettings(withJSON(&cobra.Command{
		Use:   "doctor",
		Short: "Check the installation and say what to do",
		Long:  "Check settings, data directory, database, hot tier, ports and addresses. The exit code is 1 when something has to be done.",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			d := p.examine(c)
			if err := d.report(c); err != nil {
				return err
			}
			for _, f := range d.findings {
				if f.Level == levelFail {
					return errReported
				}
			}
			return nil
		},
	}))
}

// examine makes every check that makes sense after the ones before.
func (p *program) examine(c *cobra.Command) *doctor {
	ctx := c.Context()
	settings, err := p.settings(c)
	d := &doctor{config: settings, log: p.logger(&settings.Config)}
	if err != nil {
		d.fail("settings", "correct them; `frostpin config show` lists all settings", "%v", err)
		return d
	}
	if settings.file == "" {
		d.ok("settings", "no settings file; defaults, environment and flags")
	} else {
		d.ok("settings", "read from %s", settings.file)
	}
	if d.server, err = running(settings.DataDir); err != nil {
		d.fail("server", "wait until it has started; if it never does, look at its log", "%v", err)
		return d
	}
	d.checkServer(ctx)
	d.checkDataDir()
	d.checkDatabase(ctx)
	d.checkHotTier(ctx)
	d.checkPort(ctx)
	d.checkEndpoint()
	d.checkFiles()
	d.checkRisks()
	d.checkCold(ctx)
	return d
}

func (d *doctor) report(c *cobra.Command) error {
	if wantsJSON(c) {
		return printJSON(c.OutOrStdout(), d.findings)
	}
	for _, f := range d.findings {
		line := fmt.Sprintf("%-4s  %-9s  %s\n", f.Level, f.Check, f.Detail)
		if f.Advice != "" {
			line += fmt.Sprintf("%17s%s\n", "-> ", f.Advice)
		}
		if _, err := io.WriteString(c.OutOrStdout(), line); err != nil {
			return fmt.Errorf("printing: %w", err)
		}
	}
	return nil
}
