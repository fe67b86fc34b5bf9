package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/frostpin/frostpin/spec"
)

// A statusReport is what `status` prints.
type statusReport struct {
	Running   bool                  `json:"running"`
	PID       int                   `json:"pid,omitempty"`
	Started   *time.Time            `json:"started,omitempty"`
	Endpoint  string                `json:"endpoint,omitempty"`
	Health    string                `json:"health,omitempty"` // as /readyz has it
	Checks    map[string]string     `json:"checks,omitempty"`
	Pins      map[spec.Status]int64 `json:"pins"`
	Accounts  int                   `json:"accounts"`
	Database  string                `json:"database"`
	DataDir   string                `json:"data_dir"`
	Bytes     int64                 `json:"database_bytes,omitempty"`
	Hot       string                `json:"hot"`
	HotBytes  int64                 `json:"hot_bytes"`
	HotDetail string                `json:"hot_detail,omitempty"`
}

func (p *program) statusCommand() *cobra.Command {
	return withAllSettings(withJSON(&cobra.Command{
		Use:   "status",
		Short: "Show how the server and its pins are",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return p.withStore(c, false, func(ctx context.Context, s *store) error {
				report, err := p.status(ctx, s)
				if err != nil {
					return err
				}
				if wantsJSON(c) {
					return printJSON(p.stdout, report)
				}
				return report.describe(p.stdout)
			})
		},
	}))
}

func (p *program) status(ctx context.Context, s *store) (*statusReport, error) {
	r := &statusReport{Database: s.config.Database.redacted(), DataDir: s.config.DataDir, Hot: s.config.Hot, Pins: map[spec.Status]int64{}}
	for _, status := range allStatuses() {
		r.Pins[status] = 0
	}
	service, err := s.pins(p)
	if err != nil {
		return nil, err
	}
	counts, err := service.Counts(ctx)
	if err != nil {
		return nil, fmt.Errorf("counting pins: %w", err)
	}
	maps.Copy(r.Pins, counts)
	accounts, err := s.tokens.Accounts(ctx)
	if err != nil {
		return nil, err
	}
	r.Accounts = len(accounts)
	for _, suffix := range []string{"", "-wal"} {
		if info, err := os.Stat(string(s.config.Database) + suffix); err == nil {
			r.Bytes += info.Size()
		}
	}
	r.hotUsage(ctx, p, s.config)
	here, err := running(s.config.DataDir)
	switch {
	case err != nil:
		r.Health = err.Error()
	case here != nil:
		r.Running, r.PID, r.Started, r.Endpoint = true, here.PID, &here.Started, here.Endpoint
		answer, err := askReady(ctx, s.config, here.Listening)
		if err != nil {
			r.Health = "it does not answer: " + err.Error()
			break
		}
		r.Health = answer.Status
		r.Checks = answer.summary()
	}
	return r, nil
}

// hotUsage finds out how much room the blocks take: on disk, or from the daemon.
func (r *statusReport) hotUsage(ctx context.Context, p *program, c *Config) {
	if c.Hot == hotEmbedded {
		bytes, err := directorySize(c.hotDir())
		if err != nil {
			r.HotDetail = err.Error()
		}
		r.HotBytes = bytes
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	tier, err := openHot(ctx, c, nil, p.logger(c))
	if err == nil {
		usage, asked := tier.Usage(ctx)
		r.HotBytes = usage.Bytes
		err = errors.Join(asked, tier.Close())
	}
	if err != nil {
		r.HotDetail = err.Error()
	}
}

// directorySize adds up the files below dir. Files may come and go meanwhile; a missing directory is empty.
func directorySize(dir string) (bytes int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			var info fs.FileInfo
			if info, err = entry.Info(); err == nil {
				bytes += info.Size()
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		return bytes, fmt.Errorf("measuring %s: %w", dir, err)
	}
	return bytes, nil
}

// askTimeout bounds one question to a running server or daemon.
const askTimeout = 5 * time.Second

// A readiness is the answer of /readyz.
type readiness struct {
	Status string `json:"status"`
	Checks map[string]struct {
		Status string `json:"status"`
		Detail string `json:"detail"`
	} `json:"checks"`
}

// summary is one line per check.
func (r *readiness) summary() map[string]string {
	lines := make(map[string]string, len(r.Checks))
	for name, check := range r.Checks {
		lines[name] = check.Status
		if check.Detail != "" {
			lines[name] += ": " + check.Detail
		}
	}
	return lines
}

// askReady asks a server how it is.
func askReady(ctx context.Context, c *Config, listening string) (*readiness, error) {
	origin, expect, err := c.itself(listening)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, origin+"/readyz", nil)
	if err != nil {
		return nil, err
	}
	// Not the shared client: a proxy from the environment has no business with this machine's own server.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: expect}}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	var answer readiness
	if err := json.NewDecoder(io.LimitReader(response.Body, 1<<20)).Decode(&answer); err != nil || answer.Status == "" {
		return nil, errors.New("what answers there is not frostpin")
	}
	return &answer, nil
}

func (r *statusReport) describe(w io.Writer) error {
	var rows [][]string
	add := func(name, format string, args ...any) {
		rows = append(rows, []string{name, fmt.Sprintf(format, args...)})
	}
	if r.Running {
		add("server", "running, pid %d, since %s", r.PID, moment(*r.Started))
		add("endpoint", "%s", r.Endpoint)
		add("health", "%s", r.Health)
		for _, name := range slices.Sorted(maps.Keys(r.Checks)) {
			add("  "+name, "%s", r.Checks[name])
		}
	} else {
		add("server", "%s", strings.TrimSuffix("not running; start it with `frostpin serve`. "+r.Health, ". "))
	}
	for _, status := range allStatuses() {
		add(string(status), "%d", r.Pins[status])
	}
	add("accounts", "%d", r.Accounts)
	database := r.Database
	if r.Bytes > 0 {
		database += " (" + readable(r.Bytes) + ")"
	}
	add("database", "%s", database)
	add("hot tier", "%s", strings.TrimSpace(fmt.Sprintf("%s, %s %s", r.Hot, readable(r.HotBytes), r.HotDetail)))
	return printTable(w, rows)
}
