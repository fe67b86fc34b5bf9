package deals

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	fbig "github.com/filecoin-project/go-state-types/big"
	"github.com/google/uuid"
)

// Funding says how much the service keeps in the market to pay for deals. The zero value moves nothing.
type Funding struct {
	Floor  abi.TokenAmount // attoFIL that are always free there
	TopUp  abi.TokenAmount // attoFIL that are moved at least, where the bounds allow it: each message costs gas; zero: nothing is ever moved
	PerDay abi.TokenAmount // most attoFIL moved in a day (UTC); zero: nothing
}

// off tells whether nothing is ever moved.
func (f Funding) off() bool { return amount(f.TopUp).Sign() == 0 || amount(f.PerDay).Sign() == 0 }

// An Alarm is a matter of money that an operator has to look at. The zero value is none.
type Alarm struct {
	Code string // wallet, day, off, node or stuck
	Text string
}

// alarmCodes are all of them, for the metrics.
func alarmCodes() []string { return []string{"wallet", "day", "off", "node", "stuck"} }

const (
	// needAge is how long a slot's need counts without being repeated.
	needAge = time.Hour
	// settled is the depth at which a message counts as done where finality is further away: ten minutes and more have
	// passed, and if it were undone all the same it would only be sent again, within the day's bound.
	settled = 30
	// lostAfter is when a message that no tipset has is worth an alarm.
	lostAfter = time.Hour
)

// gas is what is left in the wallet for the message itself: 0.01 FIL, many times its cost.
func gas() abi.TokenAmount { return fbig.NewInt(10_000_000_000_000_000) }

// A keeper keeps enough attoFIL in the market: the floor, and what slots wait for. One movement is under way at a
// time. Each is recorded with a UUID and charged to its day before it is sent, and sent again under the same UUID until
// the node has told its message, so that a crash never moves money twice.
type keeper struct {
	funding Funding
	store   *store
	chain   Chain
	log     *slog.Logger
	now     func() time.Time
	at      func(step string)
	poked   chan struct{}

	mu       sync.Mutex
	needs    map[SlotID]need
	seen     Funds
	reserved abi.TokenAmount
	looked   bool
	open     bool // a message of ours is on its way
	alarm    Alarm
}

type need struct {
	amount abi.TokenAmount
	since  time.Time
}

func newKeeper(f Funding, s *store, chain Chain, log *slog.Logger, now func() time.Time, at func(step string)) *keeper {
	if at == nil {
		at = func(string) {}
	}
	return &keeper{
		funding: f, store: s, chain: chain, log: log, now: now, at: at,
		poked: make(chan struct{}, 1), needs: map[SlotID]need{}, reserved: fbig.Zero(),
	}
}

// want says that a slot waits for so many attoFIL to be free in the market; zero: no longer. It wakes the keeper.
func (k *keeper) want(slot SlotID, attoFIL abi.TokenAmount) {
	k.mu.Lock()
	if amount(attoFIL).Sign() == 0 {
		delete(k.needs, slot)
		k.mu.Unlock()
		return
	}
	k.needs[slot] = need{attoFIL, k.now()}
	k.mu.Unlock()
	select {
	case k.poked <- struct{}{}:
	default:
	}
}

// needed is what slots wait for together.
func (k *keeper) needed() abi.TokenAmount {
	k.mu.Lock()
	defer k.mu.Unlock()
	sum := fbig.Zero()
	for slot, n := range k.needs {
		if k.now().Sub(n.since) > needAge {
			delete(k.needs, slot)
			continue
		}
		sum = fbig.Add(sum, n.amount)
	}
	return sum
}

// run keeps escrow until ctx ends.
func (k *keeper) run(ctx context.Context) error {
	epoch := cmp.Or(k.store.policy.EpochTime, Defaults().EpochTime)
	for {
		wait := idleEpochs * epoch
		again, err := k.step(ctx)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // it was told to stop
		case errors.Is(err, errLease):
		case err != nil:
			k.log.Warn("keeping escrow", "err", err)
		case again:
			continue
		}
		if err != nil || k.moving() {
			wait = epoch // a message is on chain with one
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-k.poked:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// idleEpochs is how often the funds are looked at while nothing is on its way, in epochs.
const idleEpochs = 10

// moving tells whether a message of ours was under way at the last look.
func (k *keeper) moving() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.open
}

// step looks once and does the next thing; again says that there is more to do at once.
func (k *keeper) step(ctx context.Context) (again bool, err error) {
	now := k.now()
	funds, err := k.chain.Funds(ctx)
	if err != nil {
		return false, fmt.Errorf("looking at the funds: %w", err)
	}
	p, err := k.store.position(ctx, dayOf(now))
	if err != nil {
		return false, fmt.Errorf("reading what is reserved: %w", err)
	}
	k.mu.Lock()
	k.seen, k.reserved, k.looked, k.open = funds, p.reserved, true, p.open != nil
	k.mu.Unlock()
	if p.open != nil {
		return k.settle(ctx, *p.open, now)
	}
	attoFIL, alarm := k.funding.topUp(funds, p, k.needed())
	k.raise(alarm)
	if attoFIL.Sign() == 0 {
		return false, nil
	}
	op := FundOp{UUID: uuid.New(), Amount: attoFIL, Day: dayOf(now), State: FundPlanned, Created: now, Changed: now}
	planned, err := k.store.planFundOp(ctx, op, k.funding.PerDay)
	if err != nil || !planned {
		return false, err
	}
	k.mu.Lock()
	k.open = true
	k.mu.Unlock()
	k.at("escrow-planned")
	return k.settle(ctx, op, now)
}

// settle moves a recorded movement on.
func (k *keeper) settle(ctx context.Context, op FundOp, now time.Time) (again bool, err error) {
	switch op.State {
	case FundPlanned:
		return false, k.send(ctx, op, now)
	case FundSent:
		return k.follow(ctx, op, now)
	case FundDone, FundFailed:
		return false, nil
	}
	return false, nil
}

func (k *keeper) send(ctx context.Context, op FundOp, now time.Time) error {
	message, err := k.chain.AddEscrow(ctx, op.UUID, op.Amount)
	if err != nil {
		k.raise(Alarm{"node", fmt.Sprintf("the node does not move %s to the market: %s", FIL(op.Amount), err)})
		return fmt.Errorf("moving %s to the market: %w", FIL(op.Amount), err)
	}
	k.at("escrow-sent")
	op.State, op.Message, op.Changed = FundSent, message, now
	if err := k.store.moveFundOp(ctx, FundPlanned, op); err != nil {
		return fmt.Errorf("recording the message %s: %w", message, err)
	}
	k.log.Info("escrow is being topped up", "amount", FIL(op.Amount), "message", message.String())
	k.at("escrow-stored")
	return nil
}

// follow looks for the message on chain.
func (k *keeper) follow(ctx context.Context, op FundOp, now time.Time) (again bool, err error) {
	m, found, err := k.chain.Message(ctx, op.Message)
	if err != nil {
		// A node that does not have the message, or has another one in its place, says so by an error, and may do so for ever.
		if now.Sub(op.Changed) >= lostAfter && !errors.Is(err, ErrChain) {
			k.raise(Alarm{"stuck", fmt.Sprintf("the node cannot find the message %s, which moves %s to the market, since %s: %s; "+
				"if it was never on chain, and never will be: frostpin funds give-up %s",
				op.Message, FIL(op.Amount), op.Changed.UTC().Format(time.RFC3339), err, op.UUID)})
		}
		return false, fmt.Errorf("looking for the message %s: %w", op.Message, err)
	}
	if !found {
		if now.Sub(op.Changed) >= lostAfter {
			k.raise(Alarm{"stuck", fmt.Sprintf("the message %s, which moves %s to the market, has not been on chain since %s: "+
				"look at the node's message pool", op.Message, FIL(op.Amount), op.Changed.UTC().Format(time.RFC3339))})
		}
		return false, nil
	}
	heads, err := k.chain.Heads(ctx)
	if err != nil {
		return false, fmt.Errorf("looking for the message %s: %w", op.Message, err)
	}
	if heads.Final < m.Height && heads.Head-m.Height < settled {
		return false, nil
	}
	op.State, op.Changed = FundDone, now
	if m.ExitCode != 0 {
		op.State, op.Reason = FundFailed, fmt.Sprintf("the message ended with exit code %d", m.ExitCode)
	}
	if err := k.store.moveFundOp(ctx, FundSent, op); err != nil {
		return false, fmt.Errorf("recording the end of the message %s: %w", op.Message, err)
	}
	if op.State == FundFailed {
		alarm := Alarm{"node", fmt.Sprintf("the message %s failed with exit code %d", op.Message, m.ExitCode)}
		k.raise(alarm)
		return false, errors.New(alarm.Text) // not at once again: it would fail again
	}
	k.log.Info("escrow is topped up", "amount", FIL(op.Amount), "message", op.Message.String())
	return true, nil
}

// topUp says how much to move now, and what an operator has to know. It has no side effects.
func (f Funding) topUp(funds Funds, p position, needs abi.TokenAmount) (abi.TokenAmount, Alarm) {
	free := fbig.Sub(fbig.Sub(amount(funds.Escrow), amount(funds.Locked)), amount(p.reserved))
	target := fbig.Add(amount(f.Floor), amount(needs))
	usable := fbig.Max(fbig.Zero(), fbig.Sub(amount(funds.Wallet), gas()))
	next := fbig.Max(amount(f.TopUp), fbig.Sub(target, free)) // what is moved next, now or later
	wallet := Alarm{"wallet", fmt.Sprintf("the wallet has %s, and the next movement to the market needs %s and gas",
		FIL(funds.Wallet), FIL(next))}
	if free.GreaterThanEqual(target) {
		if f.off() || usable.GreaterThanEqual(next) {
			return fbig.Zero(), Alarm{}
		}
		return fbig.Zero(), wallet
	}
	short := fbig.Sub(target, free)
	if f.off() {
		return fbig.Zero(), Alarm{"off", fmt.Sprintf("the market lacks %s for deals, and nothing may be moved there", FIL(short))}
	}
	left := fbig.Max(fbig.Zero(), fbig.Sub(f.PerDay, amount(p.moved)))
	move := fbig.Min(next, fbig.Min(left, usable))
	switch {
	case move.GreaterThanEqual(short):
		return move, Alarm{}
	case left.LessThan(usable):
		return move, Alarm{"day", fmt.Sprintf("the market lacks %s for deals, and of the %s that may be moved in a day %s is left",
			FIL(short), FIL(f.PerDay), FIL(left))}
	default:
		return move, wallet
	}
}

// raise notes the present alarm and logs it when it is another one than before.
func (k *keeper) raise(a Alarm) {
	k.mu.Lock()
	before := k.alarm
	k.alarm = a
	k.mu.Unlock()
	switch a.Code {
	case before.Code:
	case "":
		k.log.Info("funds are in order again", "alarm", before.Code)
	default:
		k.log.Error("funds need the operator", "alarm", a.Code, "err", a.Text)
	}
}
