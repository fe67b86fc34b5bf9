package main

import (
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"
)

// A program is one execution: where it reads settings from and where it prints.
type program struct {
	environ []string
	stdout  io.Writer
	stderr  io.Writer
	now     func() time.Time
}

func newProgram(environ []string, stdout, stderr io.Writer) *program {
	return &program{environ: environ, stdout: stdout, stderr: stderr, now: time.Now}
}

func (p *program) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "frostpin",
		Short: "A self-hosted IPFS pinning service",
		Long: `Frostpin is a self-hosted IPFS Pinning Service. What it calls pinned is held, whole, on your disk.

Start with:  frostpin serve

Every setting is a flag of serve, a variable FROSTPIN_<NAME> and a line of the file frostpin.yaml in the data
directory; the flag is the strongest. "frostpin config show" prints them all.`,
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	shared := root.PersistentFlags()
	shared.Var(&textFlag{}, configFlag, "The file of settings (default: frostpin.yaml in data-dir, if it exists)")
	addFlags(shared, func(s setting) bool { return s.everywhere })
	root.AddCommand(
		p.serveCommand(),
		p.accountCommand(),
		p.tokenCommand(),
		p.planCommand(),
		p.inviteCommand(),
		p.auditCommand(),
		p.blockCommand(),
		p.policyCommand(),
		p.pinsCommand(),
		p.statusCommand(),
		p.hotCommand(),
		p.doctorCommand(),
		p.providersCommand(),
		p.dealsCommand(),
		p.fundsCommand(),
		p.receiptCommand(),
		p.addCommand(),
		p.getCommand(),
		p.mirrorCommand(),
		p.exportCommand(),
		p.importCommand(),
		p.webhookCommand(),
		p.devnetCommand(),
		p.configCommand(),
		p.versionCommand(),
	)
	return root
}

// group is a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		return errors.Join(c.Usage(), errors.New("name one of the commands above"))
	}}
	c.AddCommand(commands...)
	return c
}

// withAllSettings gives a command a flag for every setting.
func withAllSettings(c *cobra.Command) *cobra.Command {
	addFlags(c.Flags(), func(s setting) bool { return !s.everywhere })
	return c
}

// withJSON gives a command that prints a list the flag --json.
func withJSON(c *cobra.Command) *cobra.Command {
	c.Flags().Bool(jsonFlag, false, "Print JSON")
	return c
}

// settings loads the settings of a command.
func (p *program) settings(c *cobra.Command) (*loaded, error) { return load(p.environ, c.Flags()) }

// logger writes to stderr as the settings say.
func (p *program) logger(c *Config) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(p.stderr, options))
	}
	return slog.New(slog.NewTextHandler(p.stderr, options))
}

// When to say that something takes its time, and how often.
const (
	firstProgress = 2 * time.Second
	nextProgress  = 5 * time.Second
)

// during runs fn and, while it takes long, keeps telling the operator so.
func during(log *slog.Logger, step string, fn func() error) error {
	done := make(chan struct{})
	reporter := make(chan struct{})
	started := time.Now()
	go func() {
		defer close(reporter)
		timer := time.NewTimer(firstProgress)
		defer timer.Stop()
		for {
			select {
			case <-done:
				return
			case <-timer.C:
				log.Info("still working", "step", step, "took", time.Since(started).Round(time.Second).String())
				timer.Reset(nextProgress)
			}
		}
	}()
	err := fn()
	close(done)
	<-reporter
	return err
}
