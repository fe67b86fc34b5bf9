package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/auth/events"
	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/disk"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/ingest"
	"github.com/frostpin/frostpin/retrieval/deny"
	"github.com/frostpin/frostpin/server"
)

func (p *program) serveCommand() *cobra.Command {
	return withAllSettings(&cobra.Command{
		Use:   "serve",
		Short: "Run the server",
		Long:  "Run the server until it is told to stop. The first start creates everything and prints the first token.",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			settings, err := p.settings(c)
			if err != nil {
				return err
			}
			log := p.logger(&settings.Config)
			return endWithin(c.Context(), settings.ShutdownTimeout, log, func(ctx context.Context) error {
				return p.serve(ctx, &settings.Config, log)
			})
		},
	})
}

// endWithin runs work and, once ctx has ended, gives it so long to end too. What does not is left behind: nothing that
// was acknowledged is lost by that.
func endWithin(ctx context.Context, limit time.Duration, log *slog.Logger, work func(ctx context.Context) error) error {
	ended := make(chan error, 1)
	go func() { ended <- work(ctx) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	log.Info("stopping", "within", limit.String())
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case err := <-ended:
		return err
	case <-timer.C:
		return fmt.Errorf("stopping took longer than %s: ending all the same", limit)
	}
}

// serve is the architecture, from the ground up; what is deferred takes it down in reverse.
func (p *program) serve(ctx context.Context, c *Config, log *slog.Logger) (err error) {
	if _, decided := lookup(p.environ, "GOGC"); !decided {
		defer tuneHeap().stop()
	}
	if _, decided := lookup(p.environ, "GOMAXPROCS"); !decided {
		spreadThreads()
	}
	if err := makeDataDir(c.DataDir); err != nil {
		return err
	}
	unlock, err := lockDataDir(ctx, c.DataDir)
	if err != nil {
		return err
	}
	defer closing(&err, unlock)
	if err := forgetPresence(c.DataDir); err != nil { // until this one serves, it is starting
		return err
	}
	instance, err := instanceID(c.DataDir)
	if err != nil {
		return err
	}

	guard := disk.New(c.disk(), log)
	db, err := database.Open(ctx, string(c.Database), log)
	if err != nil {
		return err
	}
	defer closing(&err, db.Close)
	if err := during(log, "migrating the database", func() error { return db.Migrate(ctx, migrations()...) }); err != nil {
		return err
	}

	turns := pins.NewTurns()
	var tier hotTier
	err = during(log, "opening the hot tier", func() (err error) { tier, err = openHot(ctx, c, turns, log); return err })
	if err != nil {
		return err
	}
	defer closing(&err, func() error { return during(log, "closing the hot tier", tier.Close) })
	tier = roomyTier{tier, guard}

	door, err := c.openDoor(ctx, log)
	if err != nil {
		return err
	}
	defer door.close()
	listening := door.address

	cold, err := p.openCold(ctx, c, db, tier, instance, listening, log)
	if err != nil {
		return err
	}
	if cold != nil {
		defer closing(&err, func() error { return during(log, "closing the cold tier", cold.close) })
	}

	tokens := auth.New(db, p.now)
	config, err := pinsConfig(c, instance)
	if err != nil {
		return err
	}
	config.Room = func() pins.Room { return rooms[guard.Level()] }
	if cold != nil {
		config.Archive = cold
	}
	var service *pins.Service
	books := newLedger(db, tokens, p.now, log)
	backing := newSponsor(tokens, books, func() *pins.Service { return service }, p.now)
	config.Sponsor = backing
	reading, err := p.openReading(c, db, tier, cold, func(root cid.Cid) { service.Doubt(root) }, log)
	if err != nil {
		return err
	}
	if cold != nil {
		config.ColdSource = coldReader{reading}
	}
	named := new(pinNames)
	told := events.New(db, named, log, p.now)
	config.Journal = journal{told}
	service = pins.New(config, db, tier, log, p.now)
	named.service = service
	collect := slices.Concat(service.Collectors(), reading.Collectors(), guard.Collectors())
	if cold != nil {
		cold.Follow(service)
		cold.Charge(backing.Pays)
		cold.Forbid(service.Blocked)
		cold.Bill(backing.Take)
		collect = append(collect, cold.Collectors()...)
	}
	metrics, err := newMetrics(collect)
	if err != nil {
		return err
	}
	egress := books.Egress()
	calling, err := c.webhooks(db, told, tokens, log, p.now)
	if err != nil {
		return err
	}
	listed, err := deny.Open(c.Denylists, log)
	if err != nil {
		return err
	}
	denied := denylist{listed, service.Blocked}
	options := server.Config{
		BasePath:      c.BasePath,
		Version:       thisBuild().Version,
		Metrics:       metrics,
		PublicMetrics: c.PublicMetrics,
		Unavailable:   []error{database.ErrUnavailable, database.ErrClosed},
		Full:          []error{database.ErrFull},
		Unstorable:    []error{database.ErrText},
		NoSpace:       func() bool { return guard.Level() == disk.Full },
		StopTimeout:   c.ShutdownTimeout / 2, // the rest is for the hot tier
		Checks: []server.Check{
			{Name: "database", Run: db.Ping, Critical: true},
			{Name: "hot", Run: func(ctx context.Context) error { return checkHot(ctx, tier) }},
			{Name: "disk", Run: guard.Check},
			{Name: "collections", Run: service.CheckCollections},
		},
		Uploads:     ingest.New(tier, uploadPins{service, denied}, config.Limits),
		UploadSlots: c.UploadSlots,
		Denylist:    denied,
		Blocklist:   newBlocklist(db, tokens, p.now),
		Proxies:     door.proxies,
		SignUp:      c.SignUp == signUpInvite,
		Ledger:      books,
		Payments:    c.payments(books, tokens),
		Events:      told,
		Webhooks:    calling,
		PieceLimits: server.PieceLimits{Transfers: c.PieceTransfers, Rate: int64(c.PieceRate)},
	}
	if options.Gateway, err = c.gateway(reading, service, turns); err != nil {
		return err
	}
	if options.Gateway != nil {
		options.Gateway.Sent, options.Gateway.MayRead = sentBy(egress), backing.MayRead
	}
	if cold != nil {
		options.Cold, options.Pieces = coldCopies{cold, reading}, pieceSource{cold.Service}
		options.Checks = append(options.Checks, server.Check{Name: "filecoin", Run: cold.check})
	}
	web, err := server.New(options, service, tokens, log) //nolint:contextcheck // requests have contexts of their own
	if err != nil {
		return err
	}
	// Nothing can go wrong any more: now the token that is shown only once.
	if err := p.greet(ctx, c, tokens, listening); err != nil {
		return err
	}
	log.Info("serving", "listen", listening, "endpoint", c.Endpoint(listening), "network", c.Network, "hot", c.Hot)

	running, ctx := errgroup.WithContext(ctx)
	running.Go(func() error { return guard.Run(ctx) })
	running.Go(func() error { return service.Run(ctx) })
	running.Go(func() error { return reading.Run(ctx) })
	running.Go(func() error { return told.Run(ctx) })
	running.Go(func() error { return calling.Run(ctx) })
	running.Go(func() error { return listed.Run(ctx) })
	running.Go(func() error {
		tokens.Run(ctx)
		return nil
	})
	running.Go(func() error {
		emptyClosed(ctx, tokens, service, c.ClosedRetention, p.now, log)
		return nil
	})
	// What is sent is counted until the last reader has gone.
	reads, readsEnd := context.WithCancel(context.WithoutCancel(ctx))
	defer readsEnd()
	running.Go(func() error {
		egress.Run(reads)
		return nil
	})
	running.Go(func() error {
		accrue(ctx, books, service, backing, cold, notices{db, tokens, books, told, service, p.now, log}, p.now, log)
		return nil
	})
	running.Go(func() error {
		newTopUps(books, service, cold, log).run(ctx)
		return nil
	})
	if cold != nil {
		running.Go(func() error { return cold.Run(ctx) })
	}
	running.Go(func() error {
		// Requests wait in the listener until the first of them can be looked at at once.
		select {
		case <-service.Ready():
		case <-ctx.Done():
		}
		defer readsEnd()
		return web.Serve(ctx, door.listener)
	})
	running.Go(func() error { return door.redirect(ctx, log) })
	running.Go(func() error {
		keepPresence(ctx, c.DataDir, presence{
			PID: os.Getpid(), Started: p.now().UTC(), Listening: listening, Endpoint: c.Endpoint(listening),
		}, tier, log)
		return nil
	})
	err = running.Wait()
	log.Info("stopped serving")
	if errors.Is(err, context.Canceled) {
		return nil // asked to stop
	}
	return err
}

// closing adds the error of taking down one part to that of the whole.
func closing(err *error, take func() error) { *err = errors.Join(*err, take()) }

// limits are those of every DAG that is fetched.
func (c *Config) limits() pins.Limits {
	return pins.Limits{
		Bytes:     int64(c.MaxDAGBytes),
		Blocks:    c.MaxDAGBlocks,
		Depth:     c.MaxDAGDepth,
		BlockSize: int(c.MaxBlockSize),
		Idle:      c.FetchIdle,
		Stall:     c.FetchStall,
	}
}

func pinsConfig(c *Config, instance string) (pins.Config, error) {
	rule, err := pins.ParsePinnedWhen(c.PinnedWhen)
	return pins.Config{
		Limits:     c.limits(),
		Slots:      c.FetchSlots,
		FindRoots:  c.FindRoots,
		FindSlice:  c.FindSlice,
		Policy:     pins.Policy{Deadline: c.FetchDeadline, RetryFirst: c.RetryFirst, RetryMax: c.RetryMax},
		Retain:     c.RetainReplaced,
		GCEvery:    c.GCInterval,
		Instance:   instance,
		VerifyRate: int64(c.VerifyRate),
		HotQuota:   int64(c.HotQuota),
		HotStay:    c.HotStay,
		Exclusive:  c.Hot == hotEmbedded, // others may use a daemon of their own too

		Cold:       c.defaultCopies(),
		PinnedWhen: rule,
	}, err
}

// newMetrics is a registry with the metrics of the service, the process and the build.
func newMetrics(service []prometheus.Collector) (*prometheus.Registry, error) {
	registry := prometheus.NewRegistry()
	ours := []prometheus.Collector{
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewBuildInfoCollector(),
	}
	for _, collector := range append(ours, service...) {
		if err := registry.Register(collector); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	return registry, nil
}

// greet tells the operator where the server is and, on the first start, the first token.
func (p *program) greet(ctx context.Context, c *Config, tokens *auth.Service, listening string) error {
	text, first, err := tokens.Bootstrap(ctx)
	if err != nil {
		return err
	}
	endpoint := c.Endpoint(listening)
	greeting := fmt.Sprintf("Frostpin is ready at %s (API documentation: %[1]s/docs)\n\n", c.origin(listening))
	if first {
		greeting += fmt.Sprintf("First token, shown only now:\n\n  %s\n\nConnect Kubo with:\n\n  ipfs pin remote service add frostpin %s %[1]s\n\n",
			text.Reveal(), endpoint)
	} else {
		greeting += fmt.Sprintf("Connect Kubo with:\n\n  ipfs pin remote service add frostpin %s TOKEN\n\n"+
			"Make a token with: frostpin token create --account %s --label NAME\n\n", endpoint, auth.FirstAccount)
	}
	if _, err := io.WriteString(p.stdout, greeting); err != nil {
		return fmt.Errorf("printing the address: %w", err)
	}
	return nil
}
