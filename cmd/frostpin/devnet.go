package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/spf13/cobra"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/deals/devnet"
	"github.com/frostpin/frostpin/deals/devnet/sp"
)

// A devnetwork is a Filecoin network in this process: a chain and storage providers.
type devnetwork struct {
	net   *devnet.Net
	fleet sp.Fleet
}

// devnetSettings shape one. defaultDevnet is what `serve --devnet` runs.
type devnetSettings struct {
	dir          string
	listen       string // of the node
	epoch        time.Duration
	finality     int64 // epochs
	providers    int
	publishDelay int64 // epochs
	sealDelay    int64 // epochs
	expectedSeal int64 // epochs
	price        int64 // attoFIL per GiB and epoch
}

func defaultDevnet(dir string) devnetSettings {
	return devnetSettings{
		dir: dir, listen: "127.0.0.1:0", epoch: devnetEpoch, finality: 20, providers: 5,
		publishDelay: 5, sealDelay: 20, expectedSeal: 960, price: 1_000_000,
	}
}

// openDevnet starts a network, or goes on with the one that the directory holds.
func openDevnet(ctx context.Context, s devnetSettings, log *slog.Logger) (*devnetwork, error) {
	log = log.With("part", "devnet")
	chain, err := devnet.Start(ctx, devnet.Config{
		Dir: filepath.Join(s.dir, "chain"), Listen: s.listen, Epoch: s.epoch, Network: devnetName,
		Miners: s.providers, Finality: abi.ChainEpoch(s.finality), ActorEvents: true, Log: log,
	})
	if err != nil {
		return nil, fmt.Errorf("starting the devnet: %w", err)
	}
	d := &devnetwork{net: chain}
	fleet := sp.FleetConfig{Config: sp.Config{
		Node: chain.API(), Dir: filepath.Join(s.dir, "providers"), Log: log,
		Ask:          sp.Ask{Price: abi.NewTokenAmount(s.price), VerifiedPrice: abi.NewTokenAmount(0)},
		PublishDelay: abi.ChainEpoch(s.publishDelay), SealDelay: abi.ChainEpoch(s.sealDelay),
		ExpectedSeal: abi.ChainEpoch(s.expectedSeal),
	}}
	for _, m := range chain.Miners() {
		fleet.Members = append(fleet.Members, sp.Member{Miner: m.ID, Worker: m.Worker})
	}
	if d.fleet, err = sp.StartFleet(ctx, fleet); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the devnet's providers: %w", err), chain.Close())
	}
	for _, p := range d.fleet {
		prefix := "/providers/" + p.Miner().String()
		chain.Control(prefix+"/", http.StripPrefix(prefix, p.ControlHandler()))
	}
	return d, nil
}

func (d *devnetwork) close() error { return errors.Join(d.fleet.Close(), d.net.Close()) }

// settled waits until the chain knows the providers as they are.
func (d *devnetwork) settled(ctx context.Context) error {
	tick := time.NewTicker(devnetEpoch)
	defer tick.Stop()
	for !d.fleet.Settled() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// token opens the node's API as far as Frostpin needs it.
func (d *devnetwork) token() string { return d.net.Token("read", "write", "sign") }

// decisions are the providers as an operator would add them to the registry.
func (d *devnetwork) decisions() ([]deals.Decision, error) {
	list := make([]deals.Decision, 0, len(d.fleet))
	for _, p := range d.fleet {
		id, err := deals.ParseProvider(p.Miner().String())
		if err != nil {
			return nil, fmt.Errorf("reading the devnet's providers: %w", err)
		}
		list = append(list, deals.Decision{ID: id, Region: p.Region(), RegionSource: devnetName, HTTP: p.HTTPURL()})
	}
	return list, nil
}

// A devnetDescription tells another process how to use the network.
type devnetDescription struct {
	LotusURL   string           `json:"lotus_url"`
	LotusToken string           `json:"lotus_token"`
	Network    string           `json:"network"`
	Wallet     string           `json:"wallet"`
	Control    string           `json:"control"`
	Providers  []devnetProvider `json:"providers"`
}

type devnetProvider struct {
	ID     string `json:"id"`
	Region string `json:"region"`
	Style  string `json:"style"`
	HTTP   string `json:"http"`
}

func (d *devnetwork) describe(control string) devnetDescription {
	text := devnetDescription{
		LotusURL: d.net.RPCURL(), LotusToken: d.token(), Network: devnetName, Wallet: d.net.ClientAddress().String(), Control: control,
	}
	for _, p := range d.fleet {
		state := p.State()
		text.Providers = append(text.Providers, devnetProvider{ID: state.Miner, Region: state.Region, Style: string(state.Style), HTTP: state.HTTP})
	}
	return text
}

func (p *program) devnetCommand() *cobra.Command {
	s := defaultDevnet("")
	var control string
	c := &cobra.Command{
		Use:   "devnet",
		Short: "Run a Filecoin network for tests",
		Long: `Run a Filecoin network for tests: a node that speaks Lotus' JSON-RPC and enforces the market's rules, and storage
providers that pull, check, publish, seal and serve. Nothing is proven and nothing is worth anything. It prints one line
of JSON that says how to use it, and runs until it is told to stop. What it keeps survives that.

The control address lets tests look at the chain and make the node and the providers misbehave. It has no password.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			settings, err := p.settings(c)
			if err != nil {
				return err
			}
			if s.dir == "" {
				s.dir = settings.devnetDir()
			}
			if s.epoch < 0 || s.providers < 1 {
				return errors.New("a devnet has at least one provider, and its epochs take some time or none")
			}
			return p.runDevnet(c.Context(), s, control, p.logger(&settings.Config))
		},
	}
	flags := c.Flags()
	flags.StringVar(&s.dir, "dir", s.dir, "Where it keeps everything (default: devnet in data-dir)")
	flags.StringVar(&s.listen, "rpc", s.listen, "Address and port of the node's API")
	flags.StringVar(&control, "control", "127.0.0.1:0", "Address and port of the control API")
	flags.DurationVar(&s.epoch, "epoch", s.epoch, "Time between two epochs; 0 means that only the control API moves the clock")
	flags.Int64Var(&s.finality, "finality", s.finality, "Epochs until nothing is undone any more")
	flags.IntVar(&s.providers, "providers", s.providers, "Number of storage providers")
	flags.Int64Var(&s.publishDelay, "publish-delay", s.publishDelay, "Epochs that a provider waits for more deals to publish")
	flags.Int64Var(&s.sealDelay, "seal-delay", s.sealDelay, "Epochs that sealing takes")
	flags.Int64Var(&s.expectedSeal, "expected-seal", s.expectedSeal, "Epochs that a provider wants between publishing and a deal's start")
	flags.Int64Var(&s.price, "price", s.price, "What the providers ask, in attoFIL per GiB and epoch")
	return c
}

// runDevnet runs a network and its control API.
func (p *program) runDevnet(ctx context.Context, s devnetSettings, control string, log *slog.Logger) (err error) {
	if err := makeDataDir(s.dir); err != nil {
		return err
	}
	unlock, err := lockDataDir(ctx, s.dir)
	if err != nil {
		return err
	}
	defer closing(&err, unlock)
	d, err := openDevnet(ctx, s, log)
	if err != nil {
		return err
	}
	defer closing(&err, d.close)
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", control)
	if err != nil {
		return fmt.Errorf("listening on %s: %w", control, err)
	}
	web := &http.Server{Handler: d.net.ControlHandler(), ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- web.Serve(listener) }()
	line, err := json.Marshal(d.describe("http://" + listener.Addr().String()))
	if err != nil {
		return fmt.Errorf("describing the devnet: %w", err)
	}
	if _, err := fmt.Fprintln(p.stdout, string(line)); err != nil {
		return fmt.Errorf("describing the devnet: %w", err)
	}
	select {
	case <-ctx.Done():
		return web.Close()
	case err := <-ended:
		return fmt.Errorf("serving the control API: %w", err)
	}
}
