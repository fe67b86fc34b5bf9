package devnet_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	actorstypes "github.com/filecoin-project/go-state-types/actors"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin"
	miner18 "github.com/filecoin-project/go-state-types/builtin/v18/miner"
	"github.com/filecoin-project/lotus/api"
	"github.com/filecoin-project/lotus/api/client"
	"github.com/filecoin-project/lotus/chain/actors"
	"github.com/filecoin-project/lotus/chain/actors/adt"
	lotusmarket "github.com/filecoin-project/lotus/chain/actors/builtin/market"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	cbor "github.com/ipfs/go-ipld-cbor"

	"github.com/frostpin/frostpin/deals/devnet"
)

func (w *world) head() *types.TipSet {
	w.t.Helper()
	return must[*types.TipSet](w.t)(w.node.ChainHead(w.ctx))
}

// next is the next batch of head changes.
func next(t *testing.T, changes <-chan []*api.HeadChange) []*api.HeadChange {
	t.Helper()
	select {
	case c, ok := <-changes:
		if !ok {
			t.Fatal("subscription ended")
		}
		return c
	case <-time.After(10 * time.Second):
		t.Fatal("no head change")
		return nil
	}
}

func TestStateIsWhatLotusReads(t *testing.T) {
	w := start(t, devnet.Config{})
	w.fund()
	miner := w.Miners()[0]
	p, q := w.proposal(miner, 1), w.proposal(miner, 2)
	id, waiting := w.publish(miner, p), w.publish(miner, q)
	w.activate(miner, 3, id, p)
	ts := w.head()
	w.advance(5)

	act, err := w.node.StateGetActor(w.ctx, lotusmarket.Address, ts.Key())
	if err != nil {
		t.Fatal(err)
	}
	st, err := lotusmarket.Load(adt.WrapStore(w.ctx, cbor.NewCborStore(remote{w})), act)
	if err != nil {
		t.Fatal(err)
	}
	if got := st.ActorVersion(); got != actorstypes.Version(actors.LatestVersion) {
		t.Errorf("actors version %d, lotus has %d", got, actors.LatestVersion)
	}
	proposals := must[lotusmarket.DealProposals](t)(st.Proposals())
	states := must[lotusmarket.DealStates](t)(st.States())
	for _, d := range []abi.DealID{id, waiting} {
		told, err := w.node.StateMarketStorageDeal(w.ctx, d, ts.Key())
		if err != nil {
			t.Fatal(err)
		}
		read, ok, err := proposals.Get(d)
		if err != nil || !ok {
			t.Fatalf("proposal %d: %v, %v", d, ok, err)
		}
		readCID, err := read.Cid()
		if err != nil {
			t.Fatal(err)
		}
		if toldCID, err := told.Proposal.Cid(); err != nil || toldCID != readCID {
			t.Errorf("deal %d: told %s (%v), read %s", d, toldCID, err, readCID)
		}
		s, ok, err := states.Get(d)
		if err != nil {
			t.Fatal(err)
		}
		if ok != (d == id) {
			t.Errorf("deal %d has a state: %v", d, ok)
		}
		if ok && (s.SectorStartEpoch() != told.State.SectorStartEpoch || s.SectorNumber() != 3) {
			t.Errorf("state read %+v, told %+v", s, told.State)
		}
	}
	if _, ok, err := must[lotusmarket.DealProposals](t)(must[lotusmarket.State](t)(lotusmarket.Load(adt.WrapStore(w.ctx, cbor.NewCborStore(remote{w})), act)).Proposals()).Get(99); ok || err != nil {
		t.Errorf("unknown deal: %v, %v", ok, err)
	}
}

func TestMessageShowsInTheChildOfItsTipset(t *testing.T) {
	w := start(t, devnet.Config{})
	c := must[cidT](t)(w.node.MarketAddBalance(w.ctx, w.ClientAddress(), w.ClientAddress(), fil(1)))
	if n := len(must[[]*types.SignedMessage](t)(w.node.MpoolPending(w.ctx, types.EmptyTSK))); n != 1 {
		t.Fatalf("%d messages wait", n)
	}
	w.advance(1)
	if found, err := w.node.StateSearchMsg(w.ctx, types.EmptyTSK, c, api.LookbackNoLimit, true); err != nil || found != nil {
		t.Fatalf("included, not executed: %v, %v", found, err)
	}
	equal(t, "escrow before the child", w.market(w.ClientAddress()).Escrow, big.Zero())
	included := w.head()
	w.advance(1)
	equal(t, "escrow in the child", w.market(w.ClientAddress()).Escrow, fil(1))
	found := w.receipt(c)
	if found.Height != w.Height() || found.TipSet != w.head().Key() {
		t.Errorf("receipt is at %d", found.Height)
	}
	old, err := w.node.StateMarketBalance(w.ctx, w.ClientAddress(), included.Key())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "escrow at the tipset before", old.Escrow, big.Zero())
	msgs := must[[]api.Message](t)(w.node.ChainGetParentMessages(w.ctx, w.head().Cids()[0]))
	if len(msgs) != 1 || msgs[0].Cid != c {
		t.Errorf("parent messages are %v", msgs)
	}
	if _, err := w.node.ChainGetMessage(w.ctx, included.Cids()[0]); err == nil {
		t.Error("a block was read as a message")
	}
}

func TestRepeatedUUIDReturnsTheFirstMessage(t *testing.T) {
	w := start(t, devnet.Config{})
	spec := &api.MessageSendSpec{MsgUuid: uuid.New()}
	msg := &types.Message{To: w.Miners()[0].Owner, From: w.ClientAddress(), Value: fil(1)}
	first := must[*types.SignedMessage](t)(w.node.MpoolPushMessage(w.ctx, msg, spec))
	w.advance(3)
	msg.Value = fil(2)
	again := must[*types.SignedMessage](t)(w.node.MpoolPushMessage(w.ctx, msg, spec))
	if again.Cid() != first.Cid() {
		t.Fatal("a second message was signed")
	}
	fresh := must[*types.SignedMessage](t)(w.node.MpoolPushMessage(w.ctx, msg, &api.MessageSendSpec{MsgUuid: uuid.New()}))
	if fresh.Message.Nonce != first.Message.Nonce+1 {
		t.Fatalf("nonces are %d and %d", first.Message.Nonce, fresh.Message.Nonce)
	}
	if _, err := w.node.MpoolPushMessage(w.ctx, &types.Message{To: msg.To, From: msg.From, Value: fil(100_000)}, nil); err == nil {
		t.Fatal("a message beyond the balance was accepted")
	}
}

func TestNullRoundsLeaveHolesAndRunCron(t *testing.T) {
	w := start(t, devnet.Config{})
	w.advance(3)
	if err := w.Skip(4); err != nil {
		t.Fatal(err)
	}
	w.advance(1)
	if w.Height() != 9 {
		t.Fatalf("height %d", w.Height())
	}
	for h, want := range map[abi.ChainEpoch][2]abi.ChainEpoch{3: {3, 3}, 4: {3, 8}, 7: {3, 8}, 8: {8, 8}, 9: {9, 9}, 0: {0, 0}} {
		below := must[*types.TipSet](t)(w.node.ChainGetTipSetByHeight(w.ctx, h, types.EmptyTSK))
		above := must[*types.TipSet](t)(w.node.ChainGetTipSetAfterHeight(w.ctx, h, types.EmptyTSK))
		if got := [2]abi.ChainEpoch{below.Height(), above.Height()}; got != want {
			t.Errorf("at height %d: %v, want %v", h, got, want)
		}
	}
	if _, err := w.node.ChainGetTipSetByHeight(w.ctx, 10, types.EmptyTSK); err == nil {
		t.Error("a tipset above the head was found")
	}
}

func TestNotifySendsCurrentThenEveryStepAlsoAcrossAReorg(t *testing.T) {
	w := start(t, devnet.Config{})
	w.advance(5)
	changes, err := w.node.ChainNotify(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	first := next(t, changes)
	if len(first) != 1 || first[0].Type != "current" || first[0].Val.Height() != 5 {
		t.Fatalf("first is %+v", first)
	}
	w.advance(1)
	if c := next(t, changes); len(c) != 1 || c[0].Type != "apply" || c[0].Val.Height() != 6 {
		t.Fatalf("then %+v", c)
	}
	if err := w.Reorg(2, false); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range next(t, changes) {
		got = append(got, c.Type+" "+c.Val.Height().String())
	}
	if diff := cmp.Diff([]string{"revert 6", "revert 5", "apply 5", "apply 6", "apply 7"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestReorgTakesAPublishedDealBackAndReplaysIt(t *testing.T) {
	for _, drop := range []bool{false, true} {
		w := start(t, devnet.Config{})
		w.fund()
		miner := w.Miners()[0]
		p := w.proposal(miner, 1)
		signed := must[*types.SignedMessage](t)(w.node.MpoolPushMessage(w.ctx, w.publishMessage(miner, w.sign(p)), nil))
		w.advance(3)
		w.receipt(signed.Cid())
		if err := w.Reorg(3, drop); err != nil {
			t.Fatal(err)
		}
		w.gone(firstDeal)
		if found, err := w.node.StateSearchMsg(w.ctx, types.EmptyTSK, signed.Cid(), api.LookbackNoLimit, true); err != nil || found != nil {
			t.Fatalf("a reverted message has receipt %v, %v", found, err)
		}
		if deals := must[[]devnet.Deal](t)(w.Deals()); len(deals) != 0 {
			t.Fatalf("%d deals after the reorganisation", len(deals))
		}
		w.advance(3)
		if drop {
			w.gone(firstDeal)
			w.publish(miner, p) // the nonce is free again
			continue
		}
		w.receipt(signed.Cid())
		w.deal(firstDeal)
	}
}

func TestFinalizedTipsetTrailsTheHead(t *testing.T) {
	w := start(t, devnet.Config{Finality: 7})
	w.advance(3)
	if ts := must[*types.TipSet](t)(w.node.ChainGetFinalizedTipSet(w.ctx)); ts.Height() != 0 {
		t.Fatalf("finalized at %d", ts.Height())
	}
	w.advance(10)
	if ts := must[*types.TipSet](t)(w.node.ChainGetFinalizedTipSet(w.ctx)); ts.Height() != 6 {
		t.Fatalf("finalized at %d", ts.Height())
	}
}

func TestTokensCarryPermissions(t *testing.T) {
	w := start(t, devnet.Config{})
	reader := dial(t, w.Net, api.PermRead)
	must[*types.TipSet](t)(reader.ChainHead(w.ctx))
	if _, err := reader.WalletSign(w.ctx, w.ClientAddress(), []byte("x")); err == nil || !strings.Contains(err.Error(), "missing permission to invoke 'WalletSign' (need 'sign')") {
		t.Errorf("signing with a read token: %v", err)
	}
	signer := dial(t, w.Net, api.PermRead, api.PermSign)
	if _, err := signer.WalletHas(w.ctx, w.ClientAddress()); err == nil || !strings.Contains(err.Error(), "need 'write'") {
		t.Errorf("WalletHas without write: %v", err)
	}
	sig, err := signer.WalletSign(w.ctx, w.ClientAddress(), []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := reader.WalletVerify(w.ctx, w.ClientAddress(), []byte("x"), sig); err != nil || !ok {
		t.Errorf("verifying: %v, %v", ok, err)
	}
	if ok, err := reader.WalletVerify(w.ctx, w.ClientAddress(), []byte("y"), sig); err != nil || ok {
		t.Errorf("verifying other bytes: %v, %v", ok, err)
	}
	if _, err := signer.AuthNew(w.ctx, api.AllPermissions); err == nil {
		t.Error("a signer made itself an admin")
	}
	header := http.Header{"Authorization": {"Bearer " + w.Token(api.PermRead) + "x"}}
	if _, _, err := client.NewFullNodeRPCV1(w.ctx, w.RPCURL(), header); err == nil {
		t.Error("a forged token connects")
	}
	if _, err := reader.ChainGetNode(w.ctx, "x"); err == nil || !strings.Contains(err.Error(), "method not supported") {
		t.Errorf("a method the node does not serve: %v", err)
	}
	plain, closer, err := client.NewFullNodeRPCV1(w.ctx, "http"+strings.TrimPrefix(w.RPCURL(), "ws"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer closer()
	if name, err := plain.StateNetworkName(w.ctx); err != nil || name != "devnet" {
		t.Errorf("network over http: %q, %v", name, err)
	}
}

func TestMinerInfoShowsPeerAndAddresses(t *testing.T) {
	w := start(t, devnet.Config{})
	miner := w.Miners()[1]
	const id = "\x00\x24\x08\x01\x12\x20abcdefghijklmnopqrstuvwxyz012345"
	w.push(&types.Message{To: miner.ID, From: miner.Owner, Value: big.Zero(), Method: builtin.MethodsMiner.ChangePeerID, Params: params(t, &miner18.ChangePeerIDParams{NewID: []byte(id)})})
	w.push(&types.Message{To: miner.ID, From: miner.Worker, Value: big.Zero(), Method: builtin.MethodsMiner.ChangeMultiaddrs, Params: params(t, &miner18.ChangeMultiaddrsParams{NewMultiaddrs: [][]byte{{4, 127, 0, 0, 1, 6, 0x10, 0}}})})
	info := must[api.MinerInfo](t)(w.node.StateMinerInfo(w.ctx, miner.ID, types.EmptyTSK))
	if info.PeerId == nil || string(*info.PeerId) != id || len(info.Multiaddrs) != 1 || info.SectorSize != 32<<30 {
		t.Errorf("info is %+v", info)
	}
	if key := must[address.Address](t)(w.node.StateAccountKey(w.ctx, info.Worker, types.EmptyTSK)); key != miner.Worker {
		t.Errorf("worker key is %s", key)
	}
}

func TestFaultsReachRPCClientsOnly(t *testing.T) {
	w := start(t, devnet.Config{})
	w.fund()
	miner := w.Miners()[0]
	id := w.publish(miner, w.proposal(miner, 1))
	w.advance(5)
	top := w.Height()

	w.SetFaults(devnet.Faults{Methods: []string{"StateMarketStorageDeal"}, ErrorEvery: 2})
	w.deal(id)
	if _, err := w.node.StateMarketStorageDeal(w.ctx, id, types.EmptyTSK); err == nil || strings.Contains(err.Error(), "not found") {
		t.Errorf("second call: %v", err)
	}
	w.head()
	w.SetFaults(devnet.Faults{NullEvery: 1})
	if d, err := w.node.StateMarketStorageDeal(w.ctx, id, types.EmptyTSK); err != nil || d != nil {
		t.Errorf("null answer: %v, %v", d, err)
	}
	w.SetFaults(devnet.Faults{NotFoundEvery: 1})
	w.gone(id)
	if _, err := w.API().StateMarketStorageDeal(w.ctx, id, types.EmptyTSK); err != nil {
		t.Errorf("in process: %v", err)
	}
	w.SetFaults(devnet.Faults{Lag: 3})
	if h := w.head().Height(); h != top-3 {
		t.Errorf("lagging head is %d of %d", h, top)
	}
	w.SetFaults(devnet.Faults{Methods: []string{"ChainHead"}, HangEvery: 1})
	ctx, cancel := context.WithTimeout(w.ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := w.node.ChainHead(ctx); err == nil {
		t.Error("a hanging call returned")
	}
	w.SetFaults(devnet.Faults{Methods: []string{"ChainHead"}, DropEvery: 1})
	ctx, cancel = context.WithTimeout(w.ctx, 5*time.Second)
	defer cancel()
	if _, err := w.node.ChainHead(ctx); err == nil {
		t.Error("a call over a cut connection returned")
	}
	w.SetFaults(devnet.Faults{Down: true})
	if _, _, err := client.NewFullNodeRPCV1(w.ctx, w.RPCURL(), nil); err == nil {
		t.Error("connected to a node that is down")
	}
	w.SetFaults(devnet.Faults{})
	if got := must[*types.TipSet](t)(dial(t, w.Net, signing...).ChainHead(w.ctx)).Height(); got != top {
		t.Errorf("after the faults: %d, want %d", got, top)
	}
}

func TestControlSteersAndReports(t *testing.T) {
	w := start(t, devnet.Config{})
	w.Control("GET /extra", http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write([]byte("{}")) }))
	server := httptest.NewServer(w.ControlHandler())
	defer server.Close()
	call := func(method, path, body string) (int, map[string]any) {
		t.Helper()
		req, err := http.NewRequestWithContext(w.ctx, method, server.URL+path, bytes.NewBufferString(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		var out map[string]any
		if path != "/deals" {
			if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
				t.Fatal(err)
			}
		}
		return resp.StatusCode, out
	}
	if _, out := call("POST", "/advance", `{"epochs":3}`); out["height"] != 3.0 {
		t.Errorf("advance: %v", out)
	}
	if _, out := call("POST", "/advance", `{"nullRounds":10}`); out["height"] != 14.0 {
		t.Errorf("null rounds: %v", out)
	}
	if _, out := call("POST", "/reorg", `{"depth":2}`); out["height"] != 15.0 {
		t.Errorf("reorg: %v", out)
	}
	if status, _ := call("POST", "/advance", `{"epoch":3}`); status != 400 {
		t.Errorf("unknown field: %d", status)
	}
	if status, _ := call("PUT", "/faults", `{"lag":-1}`); status != 400 {
		t.Errorf("negative lag: %d", status)
	}
	if _, out := call("PUT", "/faults", `{"errorEvery":7}`); out["errorEvery"] != 7.0 || w.Faults().ErrorEvery != 7 {
		t.Errorf("faults: %v", out)
	}
	for _, path := range []string{"/head", "/deals", "/extra"} {
		if status, _ := call("GET", path, ""); status != 200 {
			t.Errorf("%s: %d", path, status)
		}
	}
}

func TestAutomaticClockTicks(t *testing.T) {
	w := start(t, devnet.Config{Epoch: 5 * time.Millisecond})
	changes, err := w.node.ChainNotify(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for w.Height() < 10 {
		next(t, changes)
	}
	c := must[cidT](t)(w.node.MarketAddBalance(w.ctx, w.ClientAddress(), w.ClientAddress(), fil(1)))
	found, err := w.node.StateWaitMsg(w.ctx, c, 2, api.LookbackNoLimit, true)
	if err != nil || found.Receipt.ExitCode != 0 {
		t.Fatalf("waiting: %+v, %v", found, err)
	}
}
