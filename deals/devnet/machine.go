package devnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin"
	"github.com/filecoin-project/go-state-types/builtin/v18/util/adt"
	"github.com/filecoin-project/go-state-types/exitcode"
	"github.com/filecoin-project/lotus/chain/state"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/ipfs/go-cid"
	cbor "github.com/ipfs/go-ipld-cbor"
	cbg "github.com/whyrusleeping/cbor-gen"
)

// baseFee is attoFIL per unit of gas; it never moves, since nothing here competes for block space.
var baseFee = abi.NewTokenAmount(100)

// machine applies messages and cron to one state tree, as the actors of a Filecoin network would. It lives for one
// execution and is not safe for concurrent use.
type machine struct {
	ctx    context.Context //nolint:containedctx // of the one execution; the actors' methods take none, as the FVM's do not
	policy *policy
	store  adt.Store
	tree   *state.StateTree
	epoch  abi.ChainEpoch
	reward address.Address // receives gas premiums: the miner of the block

	events  []types.Event // of the message or cron tick being applied
	changes []change      // fates of deals; see deals.go
	message cid.Cid       // being applied; undefined in cron
}

func openMachine(ctx context.Context, p *policy, over *overlay, root cid.Cid) (*machine, error) {
	cst := cbor.NewCborStore(over)
	tree, err := state.LoadStateTree(cst, root)
	if err != nil {
		return nil, fmt.Errorf("loading state %s: %w", root, err)
	}
	return &machine{ctx: ctx, policy: p, store: adt.WrapStore(ctx, cst), tree: tree}, nil
}

// A fault is how an actor refuses: the exit code goes on chain, the text only to whoever runs the message.
type fault struct {
	code exitcode.ExitCode
	text string
}

func (f *fault) Error() string { return f.text }

func abort(code exitcode.ExitCode, format string, args ...any) error {
	return &fault{code: code, text: fmt.Sprintf(format, args...)}
}

// outcome is the receipt of a message together with what never reaches the chain.
type outcome struct {
	receipt types.MessageReceipt
	events  []types.Event
	err     string
}

// call is a message as the called actor sees it: addresses resolved to ids.
type call struct {
	from, to address.Address
	method   abi.MethodNum
	value    abi.TokenAmount
	params   []byte
}

// decode reads the parameters; trailing or malformed bytes abort as they do in the actors' dispatch.
func (c call) decode(into cbg.CBORUnmarshaler) error {
	if err := into.UnmarshalCBOR(bytes.NewReader(c.params)); err != nil {
		return abort(exitcode.ErrSerialization, "failed to deserialize params: %s", err)
	}
	return nil
}

func encode(v cbg.CBORMarshaler) ([]byte, error) {
	var buf bytes.Buffer
	if err := v.MarshalCBOR(&buf); err != nil {
		return nil, fmt.Errorf("encoding a return value: %w", err)
	}
	return buf.Bytes(), nil
}

// apply runs one message. An error means that the machine itself is broken; a message that fails has an exit code.
func (m *machine) apply(ctx context.Context, msg *types.Message, mcid cid.Cid) (outcome, error) {
	m.message, m.events = mcid, nil
	before := len(m.changes)
	from, err := m.tree.LookupIDAddress(msg.From)
	if err != nil {
		return outcome{}, fmt.Errorf("resolving sender %s: %w", msg.From, err)
	}
	gas := gasUsed(msg)
	if err := m.charge(from, msg, gas); err != nil {
		return outcome{}, err
	}

	if err := m.tree.Snapshot(ctx); err != nil {
		return outcome{}, fmt.Errorf("taking a snapshot: %w", err)
	}
	defer m.tree.ClearSnapshot()
	ret, err := m.send(call{from: from, to: msg.To, method: msg.Method, value: msg.Value, params: msg.Params})
	if err == nil {
		return outcome{receipt: types.NewMessageReceiptV1(exitcode.Ok, ret, gas, nil), events: m.events}, nil
	}
	var refused *fault
	if !errors.As(err, &refused) {
		return outcome{}, err
	}
	if err := m.tree.Revert(); err != nil {
		return outcome{}, fmt.Errorf("reverting a failed message: %w", err)
	}
	m.events, m.changes = nil, m.changes[:before]
	return outcome{receipt: types.NewMessageReceiptV1(refused.code, nil, gas, nil), err: refused.text}, nil
}

// charge takes the gas fee from the sender: the base fee is burnt, the premium goes to the miner of the block. The
// sender had enough when the message was pushed; what it has spent since is forgiven rather than owed.
func (m *machine) charge(from address.Address, msg *types.Message, gas int64) error {
	var paid abi.TokenAmount
	if err := m.tree.MutateActor(from, func(a *types.Actor) error {
		a.Nonce = msg.Nonce + 1
		paid = big.Min(a.Balance, gasCost(msg, gas))
		a.Balance = big.Sub(a.Balance, paid)
		return nil
	}); err != nil {
		return fmt.Errorf("charging sender %s: %w", msg.From, err)
	}
	burnt := big.Min(paid, big.Mul(baseFee, big.NewInt(gas)))
	if err := m.credit(builtin.BurntFundsActorAddr, burnt); err != nil {
		return err
	}
	if tip := big.Sub(paid, burnt); m.reward != address.Undef && tip.Sign() > 0 {
		return m.credit(m.reward, tip)
	}
	return nil
}

// send moves the value and runs the method of the receiving actor.
func (m *machine) send(c call) ([]byte, error) {
	to, err := m.receiver(c.to)
	if err != nil {
		return nil, err
	}
	c.to = to
	if c.value.Sign() != 0 {
		if err := m.transfer(c.from, to, c.value); err != nil {
			return nil, err
		}
	}
	if c.method == builtin.MethodSend {
		return nil, nil
	}
	act, err := m.tree.GetActor(to)
	if err != nil {
		return nil, fmt.Errorf("loading actor %s: %w", to, err)
	}
	switch act.Code {
	case code.market:
		return m.callMarket(c)
	case code.miner:
		return m.callMiner(c)
	case code.verifreg:
		return m.callRegistry(c)
	default:
		return nil, abort(exitcode.SysErrInvalidReceiver, "no method %d on actor %s in this network", c.method, to)
	}
}

// receiver resolves an address; a key that has never been seen becomes an account, as on any Filecoin chain.
func (m *machine) receiver(a address.Address) (address.Address, error) {
	id, err := m.tree.LookupIDAddress(a)
	if err == nil {
		if _, err := m.tree.GetActor(id); errors.Is(err, types.ErrActorNotFound) {
			return address.Undef, abort(exitcode.SysErrInvalidReceiver, "actor %s does not exist", a)
		} else if err != nil {
			return address.Undef, fmt.Errorf("loading actor %s: %w", id, err)
		}
		return id, nil
	}
	if !errors.Is(err, types.ErrActorNotFound) {
		return address.Undef, fmt.Errorf("resolving %s: %w", a, err)
	}
	if a.Protocol() != address.SECP256K1 && a.Protocol() != address.BLS {
		return address.Undef, abort(exitcode.SysErrInvalidReceiver, "cannot create an account for %s", a)
	}
	return m.createAccount(a)
}

func (m *machine) transfer(from, to address.Address, amount abi.TokenAmount) error {
	if amount.Sign() < 0 {
		return abort(exitcode.SysErrForbidden, "attempted to transfer negative value %s", amount)
	}
	act, err := m.tree.GetActor(from)
	if err != nil {
		return fmt.Errorf("loading actor %s: %w", from, err)
	}
	if act.Balance.LessThan(amount) {
		return abort(exitcode.SysErrInsufficientFunds, "sender %s has balance %s, cannot send %s", from, act.Balance, amount)
	}
	if err := m.credit(from, amount.Neg()); err != nil {
		return err
	}
	return m.credit(to, amount)
}

// credit adds to an actor's balance; the callers have checked that it does not go below zero.
func (m *machine) credit(to address.Address, amount abi.TokenAmount) error {
	if err := m.tree.MutateActor(to, func(a *types.Actor) error {
		a.Balance = big.Add(a.Balance, amount)
		return nil
	}); err != nil {
		return fmt.Errorf("changing the balance of %s: %w", to, err)
	}
	return nil
}

// load reads an actor's state.
func (m *machine) load(a address.Address, into cbg.CBORUnmarshaler) error {
	act, err := m.tree.GetActor(a)
	if err != nil {
		return fmt.Errorf("loading actor %s: %w", a, err)
	}
	if err := m.store.Get(m.ctx, act.Head, into); err != nil {
		return fmt.Errorf("loading state of %s: %w", a, err)
	}
	return nil
}

// save writes an actor's state and moves its head there.
func (m *machine) save(a address.Address, st cbg.CBORMarshaler) error {
	head, err := m.store.Put(m.ctx, st)
	if err != nil {
		return fmt.Errorf("storing state of %s: %w", a, err)
	}
	return m.tree.MutateActor(a, func(act *types.Actor) error {
		act.Head = head
		return nil
	})
}

// resolve is the id of an existing actor; ok is false when there is none.
func (m *machine) resolve(a address.Address) (id address.Address, ok bool, err error) {
	id, err = m.tree.LookupIDAddress(a)
	if err == nil {
		_, err = m.tree.GetActor(id)
	}
	if errors.Is(err, types.ErrActorNotFound) {
		return address.Undef, false, nil
	}
	if err != nil {
		return address.Undef, false, fmt.Errorf("resolving %s: %w", a, err)
	}
	return id, true, nil
}

// gasUsed is a rough figure of what the message costs on mainnet: enough for a wallet to run low, no more.
func gasUsed(msg *types.Message) int64 {
	const perMessage, perByte = 5_000_000, 3_000
	return perMessage + perByte*int64(len(msg.Params))
}

// gasCost is the fee for used gas in attoFIL: the base fee, plus the premium as far as the fee cap allows it.
func gasCost(msg *types.Message, used int64) abi.TokenAmount {
	if msg.GasFeeCap.Nil() || msg.GasFeeCap.IsZero() {
		return big.Zero() // an estimate
	}
	tip := big.Min(msg.GasPremium, big.Max(big.Zero(), big.Sub(msg.GasFeeCap, baseFee)))
	return big.Mul(big.Add(baseFee, tip), big.NewInt(used))
}
