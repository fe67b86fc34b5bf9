package devnet

import (
	"bytes"
	"context"
	"fmt"
	"sync"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin"
	"github.com/filecoin-project/go-state-types/builtin/v18/account"
	market18 "github.com/filecoin-project/go-state-types/builtin/v18/market"
	"github.com/filecoin-project/go-state-types/crypto"
	"github.com/filecoin-project/go-state-types/exitcode"
	"github.com/filecoin-project/lotus/api"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/filecoin-project/lotus/lib/sigs"
	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
	cbg "github.com/whyrusleeping/cbor-gen"
)

// Gas of a message whose sender left it to the node.
var (
	defaultPremium = abi.NewTokenAmount(100_000)
	defaultFeeCap  = abi.NewTokenAmount(101_000)
)

// keyOf is the key address of an account, resolved in the state after the head.
func (n *Net) keyOf(m *machine, a address.Address) (address.Address, error) {
	if a.Protocol() != address.ID {
		return a, nil
	}
	act, err := m.tree.GetActor(a)
	if err != nil {
		return address.Undef, fmt.Errorf("getting key address: %w", err)
	}
	if act.Code != code.account {
		return address.Undef, fmt.Errorf("getting key address: actor %s is not an account", a)
	}
	var st account.State
	if err := m.load(a, &st); err != nil {
		return address.Undef, err
	}
	return st.Address, nil
}

// try runs a message on top of everything that waits, without keeping the result.
func (n *Net) try(ctx context.Context, msg *types.Message) (outcome, error) {
	m, err := n.stateAfter(ctx, n.head)
	if err != nil {
		return outcome{}, err
	}
	for _, s := range n.pool.waiting[msg.From] {
		if s.signed.Message.Nonce >= msg.Nonce {
			break
		}
		if _, err := m.apply(ctx, &s.signed.Message, s.cid); err != nil {
			return outcome{}, err
		}
	}
	return m.apply(ctx, msg, cid.Undef)
}

// estimate fills in the gas fields and refuses a message that would fail, as Lotus does before it signs one.
func (n *Net) estimate(ctx context.Context, msg *types.Message) error {
	if msg.GasLimit == 0 {
		dry := *msg
		dry.GasFeeCap, dry.GasPremium = big.Zero(), big.Zero()
		out, err := n.try(ctx, &dry)
		if err != nil {
			return fmt.Errorf("gas estimation failed: %w", err)
		}
		if out.receipt.ExitCode != exitcode.Ok {
			return api.NewErrExecutionRevertedFromResult(&api.InvocResult{Msg: msg, MsgRct: &out.receipt, Error: out.err})
		}
		msg.GasLimit = out.receipt.GasUsed * 5 / 4
	}
	if msg.GasPremium.Nil() || msg.GasPremium.IsZero() {
		msg.GasPremium = defaultPremium
	}
	if msg.GasFeeCap.Nil() || msg.GasFeeCap.IsZero() {
		msg.GasFeeCap = big.Max(defaultFeeCap, big.Add(msg.GasPremium, baseFee))
	}
	return nil
}

// pushMessage signs a message with a key of the wallet and queues it. It is on disk when this returns. A uuid that was
// used before returns the message it was used for, whatever the arguments are now.
func (n *Net) pushMessage(ctx context.Context, in *types.Message, spec *api.MessageSendSpec) (*types.SignedMessage, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var id uuid.UUID
	if spec != nil {
		id = spec.MsgUuid
	}
	if id != uuid.Nil {
		if s, ok := n.pool.byUUID[id]; ok {
			again := *s.signed
			return &again, nil
		}
	}
	if in.Nonce != 0 {
		return nil, fmt.Errorf("MpoolPushMessage expects message nonce to be 0, was %d", in.Nonce)
	}
	m, err := n.stateAfter(ctx, n.head)
	if err != nil {
		return nil, err
	}
	msg := *in
	if msg.Value.Nil() {
		msg.Value = big.Zero()
	}
	if msg.From, err = n.keyOf(m, msg.From); err != nil {
		return nil, err
	}
	act, err := m.tree.GetActor(msg.From)
	if err != nil {
		return nil, fmt.Errorf("mpool push: getting origin balance: %w", err)
	}
	msg.Nonce = n.pool.nextNonce(msg.From, act.Nonce)
	if err := n.estimate(ctx, &msg); err != nil {
		return nil, fmt.Errorf("GasEstimateMessageGas error: %w", err)
	}
	if need := big.Add(msg.Value, msg.RequiredFunds()); act.Balance.LessThan(need) {
		return nil, fmt.Errorf("mpool push: not enough funds: %s < %s", act.Balance, need)
	}
	sig, err := n.wallet.sign(msg.From, msg.Cid().Bytes())
	if err != nil {
		return nil, fmt.Errorf("failed to sign message: %w", err)
	}
	return n.accept(&types.SignedMessage{Message: msg, Signature: *sig}, id)
}

// accept stores a signed message and queues it. The caller holds n.mu.
func (n *Net) accept(signed *types.SignedMessage, id uuid.UUID) (*types.SignedMessage, error) {
	s := &sentMessage{signed: signed, cid: signed.Cid(), uuid: id, earliest: n.head.height() + 1 + n.cfg.Inclusion}
	if _, known := n.pool.byCID[s.cid]; known {
		return signed, nil
	}
	if err := n.journal.message(s); err != nil {
		return nil, err
	}
	n.pool.know(s)
	n.pool.queue(s)
	answer := *signed // the caller may do with it what it likes
	return &answer, nil
}

// pushSigned queues a message that the caller has signed.
func (n *Net) pushSigned(ctx context.Context, signed *types.SignedMessage) (cid.Cid, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if signed.Signature.Type != crypto.SigTypeSecp256k1 {
		return cid.Undef, fmt.Errorf("this network takes secp256k1 signatures only, not type %d", signed.Signature.Type)
	}
	if err := sigs.Verify(&signed.Signature, signed.Message.From, signed.Message.Cid().Bytes()); err != nil {
		return cid.Undef, fmt.Errorf("invalid signature: %w", err)
	}
	m, err := n.stateAfter(ctx, n.head)
	if err != nil {
		return cid.Undef, err
	}
	act, err := m.tree.GetActor(signed.Message.From)
	if err != nil {
		return cid.Undef, fmt.Errorf("loading sender: %w", err)
	}
	if signed.Message.Nonce < act.Nonce {
		return cid.Undef, fmt.Errorf("minimum expected nonce is %d, got %d: message nonce too low", act.Nonce, signed.Message.Nonce)
	}
	if _, err := n.accept(signed, uuid.Nil); err != nil {
		return cid.Undef, err
	}
	return signed.Cid(), nil
}

// marketMessage builds a message to the market actor and pushes it.
func (n *Net) marketMessage(ctx context.Context, from address.Address, method abi.MethodNum, value abi.TokenAmount, params cbg.CBORMarshaler) (cid.Cid, error) {
	var buf bytes.Buffer
	if err := params.MarshalCBOR(&buf); err != nil {
		return cid.Undef, fmt.Errorf("encoding parameters: %w", err)
	}
	signed, err := n.pushMessage(ctx, &types.Message{
		To: builtin.StorageMarketActorAddr, From: from, Value: value, Method: method, Params: buf.Bytes(),
	}, nil)
	if err != nil {
		return cid.Undef, err
	}
	return signed.Cid(), nil
}

func (n *Net) addBalance(ctx context.Context, wallet, addr address.Address, amount types.BigInt) (cid.Cid, error) {
	return n.marketMessage(ctx, wallet, builtin.MethodsMarket.AddBalance, amount, &addr)
}

func (n *Net) withdraw(ctx context.Context, wallet, addr address.Address, amount types.BigInt) (cid.Cid, error) {
	return n.marketMessage(ctx, wallet, builtin.MethodsMarket.WithdrawBalance, big.Zero(),
		&market18.WithdrawBalanceParams{ProviderOrClientAddress: addr, Amount: amount})
}

// reservations are funds that callers have set aside through MarketReserveFunds, by address. Like the node they belong
// to, they know nothing of other nodes; unlike in Lotus they end with the process.
type reservations struct {
	mu     sync.Mutex
	amount map[address.Address]abi.TokenAmount
}

func (r *reservations) add(a address.Address, amount abi.TokenAmount) abi.TokenAmount {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.amount == nil {
		r.amount = map[address.Address]abi.TokenAmount{}
	}
	sum, ok := r.amount[a]
	if !ok {
		sum = big.Zero()
	}
	sum = big.Max(big.Zero(), big.Add(sum, amount))
	r.amount[a] = sum
	return sum
}

// reserve sets funds aside and adds what free escrow lacks; the CID is undefined when nothing had to be added.
func (n *Net) reserve(ctx context.Context, wallet, addr address.Address, amount types.BigInt) (cid.Cid, error) {
	n.mu.RLock()
	m, err := n.stateAfter(ctx, n.head)
	n.mu.RUnlock()
	if err != nil {
		return cid.Undef, err
	}
	id, err := m.tree.LookupIDAddress(addr)
	if err != nil {
		return cid.Undef, fmt.Errorf("looking up %s: %w", addr, err)
	}
	k, err := m.openMarket()
	if err != nil {
		return cid.Undef, err
	}
	wanted := n.reserved.add(id, amount)
	ok, err := k.covered(id, wanted)
	if err != nil || ok {
		return cid.Undef, err
	}
	free, err := k.free(id)
	if err != nil {
		return cid.Undef, err
	}
	c, err := n.addBalance(ctx, wallet, addr, big.Sub(wanted, free))
	if err != nil {
		n.reserved.add(id, amount.Neg())
	}
	return c, err
}
