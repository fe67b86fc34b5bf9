package e2e_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A devnet is a Filecoin network in a process of its own.
type devnet struct {
	t    *testing.T
	dir  string
	args []string
	proc *process

	LotusURL   string `json:"lotus_url"`
	LotusToken string `json:"lotus_token"`
	Network    string `json:"network"`
	Wallet     string `json:"wallet"`
	Control    string `json:"control"`
	Providers  []struct {
		ID     string `json:"id"`
		Region string `json:"region"`
		Style  string `json:"style"`
	} `json:"providers"`
}

// startDevnet starts a network whose deals become active about two seconds after they were proposed.
func startDevnet(t *testing.T, args ...string) *devnet {
	t.Helper()
	d := &devnet{t: t, dir: t.TempDir(), args: append([]string{
		"--epoch", "50ms", "--finality", "10", "--publish-delay", "2", "--seal-delay", "4", "--expected-seal", "20",
	}, args...)}
	d.start("127.0.0.1:0", "127.0.0.1:0")
	return d
}

func (d *devnet) start(rpc, control string) {
	d.t.Helper()
	cmd := exec.Command(binary(d.t, buildFrostpin), append([]string{
		"devnet", "--data-dir", filepath.Join(d.dir, "settings"), "--dir", filepath.Join(d.dir, "net"), "--rpc", rpc, "--control", control,
	}, d.args...)...)
	cmd.Env = environment(d.dir)
	d.proc = startProcess(d.t, "frostpin devnet", cmd)
	line := d.proc.await(`(?m)^(\{.*\})$`)[1]
	if err := json.Unmarshal([]byte(line), d); err != nil {
		d.t.Fatalf("reading %q: %v", line, err)
	}
}

// restart goes on with the same chain at the same addresses, after kill -9.
func (d *devnet) restart() {
	d.t.Helper()
	rpc := strings.TrimSuffix(strings.TrimPrefix(d.LotusURL, "ws://"), "/rpc/v1")
	d.proc.kill()
	d.start(rpc, strings.TrimPrefix(d.Control, "http://"))
}

// settings are those of a server that stores on this network.
func (d *devnet) settings(more ...string) []string {
	return append([]string{
		"FROSTPIN_LOTUS_URL=" + d.LotusURL,
		"FROSTPIN_LOTUS_TOKEN=" + d.LotusToken,
		"FROSTPIN_WALLET=" + d.Wallet,
		"FROSTPIN_FILECOIN_NETWORK=" + d.Network,
		"FROSTPIN_MAX_PRICE=1000000000",
		"FROSTPIN_MAX_DEAL_COST=1FIL",
		"FROSTPIN_MAX_DAY_COST=100FIL",
		"FROSTPIN_MAX_MONTH_COST=1000FIL",
		"FROSTPIN_ESCROW_FLOOR=1FIL",
		"FROSTPIN_ESCROW_TOP_UP=10FIL",
		"FROSTPIN_MAX_DAY_ESCROW=100FIL",
		"FROSTPIN_DEAL_START_DELAY=2h30m", // 300 epochs: 15 s here
		"FROSTPIN_DEAL_RENEW_BEFORE=720h",
	}, more...)
}

// enter puts all providers into a server's registry.
func (d *devnet) enter(s *server) {
	d.t.Helper()
	for _, p := range d.Providers {
		s.must("providers", "add", p.ID, "--region", p.Region)
	}
}

// A fault is a switch of a provider or of the node.
type fault map[string]any

func (d *devnet) call(method, path string, body, into any) {
	d.t.Helper()
	var reader io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			d.t.Fatal(err)
		}
		reader = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(d.t.Context(), method, d.Control+path, reader)
	if err != nil {
		d.t.Fatal(err)
	}
	client := &http.Client{Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		d.t.Fatalf("calling the devnet: %v", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		d.t.Fatalf("devnet: %s %s: %d %s %v", method, path, resp.StatusCode, text, err)
	}
	if into != nil {
		if err := json.Unmarshal(text, into); err != nil {
			d.t.Fatalf("reading %q: %v", text, err)
		}
	}
}

// misbehave sets the switches of one provider; none makes it honest again.
func (d *devnet) misbehave(provider string, faults ...fault) {
	d.t.Helper()
	if faults == nil {
		faults = []fault{}
	}
	d.call(http.MethodPut, "/providers/"+provider+"/faults", faults, nil)
}

// node sets the switches of the node.
func (d *devnet) node(f fault) {
	d.t.Helper()
	d.call(http.MethodPut, "/faults", f, nil)
}

// A chainDeal is a deal as the chain has it.
type chainDeal struct {
	ID       uint64
	Fate     string
	Proposal struct {
		PieceCID             map[string]string
		Client, Provider     string
		StartEpoch, EndEpoch int64
		StoragePricePerEpoch string
	}
	ProposalCID map[string]string
}

func (c chainDeal) piece() string { return c.Proposal.PieceCID["/"] }

func (d *devnet) deals() (all []chainDeal) {
	d.t.Helper()
	d.call(http.MethodGet, "/deals", nil, &all)
	return all
}

// perPiece returns the providers of the deals that are alive, by piece, and reports every piece that is twice with one
// provider and every proposal that was published twice.
func (d *devnet) perPiece() map[string][]string {
	d.t.Helper()
	byPiece := map[string][]string{}
	seen := map[string]bool{}
	proposals := map[string]uint64{}
	for _, deal := range d.deals() {
		if other, twice := proposals[deal.ProposalCID["/"]]; twice {
			d.t.Errorf("deals %d and %d are one proposal", other, deal.ID)
		}
		proposals[deal.ProposalCID["/"]] = deal.ID
		if deal.Fate != "active" && deal.Fate != "published" {
			continue
		}
		key := deal.piece() + " at " + deal.Proposal.Provider
		if seen[key] {
			d.t.Errorf("piece %s has two deals", key)
		}
		seen[key] = true
		if deal.Fate == "active" {
			byPiece[deal.piece()] = append(byPiece[deal.piece()], deal.Proposal.Provider)
		}
	}
	return byPiece
}

// startCold starts a server that stores on the network, with all its providers in the registry.
func startCold(t *testing.T, d *devnet, settings ...string) *server {
	t.Helper()
	s := startServer(t, d.settings(settings...)...)
	d.enter(s)
	return s
}

// stored waits until a pin has all its copies, and returns it.
func (a *api) stored(id string, limit time.Duration) (got pinStatus) {
	a.t.Helper()
	within(a.t, limit, "pin "+id+" is stored cold", func() (bool, any) {
		got = a.get(id)
		return got.Info["cold_status"] == "stored", got.Info
	})
	return got
}

// unique is the CID of new content that the node has, and its address.
func (n *ipfsNode) unique(size int) string {
	n.t.Helper()
	return n.addText(string(noise(size)), "--cid-version=1")
}

func describe(v any) string { return fmt.Sprintf("%+v", v) }

// A bigInt is attoFIL.
type bigInt struct{ n big.Int }

func (b *bigInt) add(perEpoch string, epochs int64) {
	price, ok := new(big.Int).SetString(perEpoch, 10)
	if !ok {
		panic("the chain has a price " + perEpoch)
	}
	b.n.Add(&b.n, price.Mul(price, big.NewInt(epochs)))
}

func (b *bigInt) moreThanFIL(fil int64) bool {
	limit := new(big.Int).Mul(big.NewInt(fil), big.NewInt(1e18))
	return b.n.Cmp(limit) > 0
}

func (b *bigInt) String() string { return b.n.String() }
