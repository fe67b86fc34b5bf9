package chain

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin"
	"github.com/filecoin-project/go-state-types/crypto"
	"github.com/filecoin-project/lotus/api"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/google/uuid"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/deals"
)

// slow is how many times the usual deadline a call has that makes the node search, or estimate by executing.
const slow = 4

// Client is the key address that proposes and pays, and its ID address. A key that has never received anything has
// none, which is an error here.
func (l *Lotus) Client(ctx context.Context) (deals.Client, error) {
	s, head, err := l.ready(ctx)
	if err != nil {
		return deals.Client{}, err
	}
	id, found, err := l.idOf(ctx, s, head, l.cfg.Wallet)
	if err != nil {
		return deals.Client{}, err
	}
	if !found {
		return deals.Client{}, fmt.Errorf("looking up wallet %s: it is not on chain until it has received some FIL", l.cfg.Wallet)
	}
	return deals.Client{Key: l.cfg.Wallet, ID: id}, nil
}

// idOf is an address as the chain stores it. What a final tipset says stays true; what only the head says may be
// undone, and another address get the number.
func (l *Lotus) idOf(ctx context.Context, s *session, head tip, a address.Address) (id address.Address, found bool, err error) {
	if a.Protocol() == address.ID {
		return a, true, nil
	}
	if id, ok := l.ids.Load(a); ok {
		return id.(address.Address), true, nil
	}
	type wanted struct{ address.Address }
	type known struct {
		id    address.Address
		found bool
	}
	k, err := remember(ctx, &l.memo, s, head.Key, wanted{a}, func(ctx context.Context) (known, error) {
		final, err := l.finalTip(ctx, s, head)
		if err != nil {
			return known{}, err
		}
		for _, at := range []tip{final, head} {
			id, err := call(ctx, s, "StateLookupID", func(ctx context.Context, n *node) (*address.Address, error) {
				return n.StateLookupID(ctx, a, at.Key)
			})
			switch {
			case isNoActor(err):
				continue
			case err != nil:
				return known{}, err
			case id.Protocol() != address.ID:
				return known{}, fmt.Errorf("looking up %s: %w: the answer %s is no ID address", a, deals.ErrChain, id)
			}
			if at == final {
				l.ids.Store(a, *id)
			}
			return known{*id, true}, nil
		}
		return known{}, nil
	})
	return k.id, k.found, err
}

// Sign signs with the client's key, in the node's wallet.
func (l *Lotus) Sign(ctx context.Context, message []byte) (crypto.Signature, error) {
	s, _, err := l.ready(ctx)
	if err != nil {
		return crypto.Signature{}, err
	}
	sig, err := sign(ctx, s, l.cfg.Wallet, message)
	if err != nil {
		return crypto.Signature{}, err
	}
	return *sig, nil
}

func sign(ctx context.Context, s *session, key address.Address, message []byte) (*crypto.Signature, error) {
	sig, err := call(ctx, s, "WalletSign", func(ctx context.Context, n *node) (*crypto.Signature, error) {
		return n.WalletSign(ctx, key, message)
	})
	if err != nil {
		return nil, err
	}
	if len(sig.Data) == 0 {
		return nil, fmt.Errorf("asking the node for WalletSign: %w: the signature is empty", deals.ErrChain)
	}
	return sig, nil
}

func verify(ctx context.Context, s *session, key address.Address, message []byte, sig crypto.Signature) (bool, error) {
	good, err := call(ctx, s, "WalletVerify", func(ctx context.Context, n *node) (*bool, error) {
		return n.WalletVerify(ctx, key, message, &sig)
	})
	if err != nil {
		return false, err
	}
	return *good, nil
}

// VerifyAsk tells whether the provider's worker signed these bytes. The node verifies, because most workers have BLS
// keys.
func (l *Lotus) VerifyAsk(ctx context.Context, p deals.ProviderID, message []byte, sig crypto.Signature) (bool, error) {
	s, head, err := l.ready(ctx)
	if err != nil {
		return false, err
	}
	info, err := minerInfo(ctx, s, head, p)
	if err != nil {
		return false, err
	}
	key, err := call(ctx, s, "StateAccountKey", func(ctx context.Context, n *node) (*address.Address, error) {
		return n.StateAccountKey(ctx, info.Worker, head.Key)
	})
	if err != nil {
		return false, err
	}
	if key.Empty() || key.Protocol() == address.ID {
		return false, fmt.Errorf("asking the node for StateAccountKey: %w: %q is no key", deals.ErrChain, key)
	}
	return verify(ctx, s, *key, message, sig)
}

// Funds returns what the client has at the head; nothing while the chain does not know it.
func (l *Lotus) Funds(ctx context.Context) (deals.Funds, error) {
	s, head, err := l.ready(ctx)
	if err != nil {
		return deals.Funds{}, err
	}
	return remember(ctx, &l.memo, s, head.Key, "funds", func(ctx context.Context) (deals.Funds, error) {
		none := deals.Funds{Wallet: big.Zero(), Escrow: big.Zero(), Locked: big.Zero(), Datacap: big.Zero()}
		if _, found, err := l.idOf(ctx, s, head, l.cfg.Wallet); err != nil || !found {
			return none, err
		}
		wallet, err := call(ctx, s, "WalletBalance", func(ctx context.Context, n *node) (*big.Int, error) {
			return n.WalletBalance(ctx, l.cfg.Wallet)
		})
		if err != nil {
			return none, err
		}
		market, err := call(ctx, s, "StateMarketBalance", func(ctx context.Context, n *node) (*api.MarketBalance, error) {
			return n.StateMarketBalance(ctx, l.cfg.Wallet, head.Key)
		})
		if err != nil {
			return none, err
		}
		datacap, err := callNull(ctx, s, s.timeout, "StateVerifiedClientStatus", func(ctx context.Context, n *node) (*abi.StoragePower, error) {
			return n.StateVerifiedClientStatus(ctx, l.cfg.Wallet, head.Key)
		})
		if err != nil {
			return none, err
		}
		if wallet.Nil() || market.Escrow.Nil() || market.Locked.Nil() {
			return none, fmt.Errorf("asking the node for funds: %w: an amount is missing", deals.ErrChain)
		}
		funds := deals.Funds{Wallet: *wallet, Escrow: market.Escrow, Locked: market.Locked, Datacap: big.Zero()}
		if datacap != nil && !datacap.Nil() {
			funds.Datacap = *datacap
		}
		return funds, nil
	})
}

// AddEscrow moves attoFIL from the wallet to the market. The node keeps the key beside the message that it signs, and
// returns that message when the key comes again; so the promise holds as long as the node keeps its repository.
func (l *Lotus) AddEscrow(ctx context.Context, key uuid.UUID, amount abi.TokenAmount) (cid.Cid, error) {
	if key == uuid.Nil {
		return cid.Undef, errors.New("adding escrow: a key is needed, so that it is not added twice")
	}
	if amount.Nil() || amount.Sign() <= 0 {
		return cid.Undef, fmt.Errorf("adding escrow of %s attoFIL: it must be more than nothing", amount)
	}
	s, _, err := l.ready(ctx)
	if err != nil {
		return cid.Undef, err
	}
	var params bytes.Buffer
	wallet := l.cfg.Wallet
	if err := wallet.MarshalCBOR(&params); err != nil {
		return cid.Undef, fmt.Errorf("encoding %s: %w", wallet, err)
	}
	m := types.Message{
		To:     builtin.StorageMarketActorAddr,
		From:   wallet,
		Value:  amount,
		Method: builtin.MethodsMarket.AddBalance,
		Params: params.Bytes(),
	}
	signed, err := callNull(ctx, s, slow*s.timeout, "MpoolPushMessage", func(ctx context.Context, n *node) (*types.SignedMessage, error) {
		return n.MpoolPushMessage(ctx, &m, &api.MessageSendSpec{MaxFee: big.Zero(), MsgUuid: key})
	})
	switch {
	case err != nil:
		return cid.Undef, err
	case signed == nil:
		return cid.Undef, fmt.Errorf("asking the node for MpoolPushMessage: %w: the answer is null", deals.ErrChain)
	case signed.Message.To != m.To || signed.Message.Method != m.Method || !bytes.Equal(signed.Message.Params, m.Params) ||
		signed.Message.Value.Nil() || !signed.Message.Value.Equals(amount):
		return cid.Undef, fmt.Errorf("adding escrow of %s attoFIL: under key %s the node has the other message %s", amount, key, signed.Cid())
	}
	return signed.Cid(), nil
}

// Message tells what has become of a message.
func (l *Lotus) Message(ctx context.Context, message cid.Cid) (deals.Message, bool, error) {
	s, _, err := l.ready(ctx)
	if err != nil {
		return deals.Message{}, false, err
	}
	found, err := search(ctx, s, message)
	if err != nil || found == nil {
		return deals.Message{}, false, err
	}
	return deals.Message{Height: found.Height, ExitCode: int64(found.Receipt.ExitCode)}, true, nil
}

// search finds a message on the chain of the head, or nil.
func search(ctx context.Context, s *session, message cid.Cid) (*api.MsgLookup, error) {
	return callNull(ctx, s, slow*s.timeout, "StateSearchMsg", func(ctx context.Context, n *node) (*api.MsgLookup, error) {
		return n.StateSearchMsg(ctx, types.EmptyTSK, message, api.LookbackNoLimit, true)
	})
}
