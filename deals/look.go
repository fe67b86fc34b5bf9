package deals

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/ipfs/go-cid"
)

// passLooks looks at attempts that are due, many at once and few with each provider.
func (m *maker) passLooks(ctx context.Context) (time.Time, error) {
	full, running := m.looking.full()
	if running >= looking {
		return time.Time{}, nil // whoever ends pokes
	}
	limit := running + batch
	all, err := m.s.store.dueAttempts(ctx, full, limit)
	if err != nil {
		return time.Time{}, err
	}
	ready, next := split(all, m.s.now())
	started := 0
	for _, d := range ready {
		id := AttemptID(d.id)
		if !m.looking.enter(id, d.provider) {
			continue
		}
		started++
		m.workers.Go(func() {
			err := m.lookAt(ctx, id)
			m.looking.leave(id, d.provider)
			m.report(ctx, "looking at a deal", err)
			signal(m.looks)
		})
	}
	if len(all) == limit && started > 0 {
		next = m.s.now()
	}
	return next, nil
}

// lookAt does the next thing for an attempt.
func (m *maker) lookAt(ctx context.Context, id AttemptID) (err error) {
	defer m.guard(&err)
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	a, wanted, err := m.s.store.attemptToLookAt(ctx, id)
	if err != nil {
		return fmt.Errorf("reading attempt %d: %w", id, err)
	}
	switch a.State {
	case Planned:
		switch {
		case !wanted:
			err = m.record(ctx, a, Observation{})
		case m.s.forbid(a.Root):
			err = m.withdraw(ctx, a, m.forbidden())
		default:
			err = m.propose(ctx, a)
		}
	case Proposing:
		err = m.remind(ctx, a)
	case Accepted, Transferring, Published, Sealing:
		err = m.record(ctx, a, m.look(ctx, a))
	case Active, Rejected, Failed, Missed, Expired, Terminated, Cancelled:
		return nil
	}
	if err == nil || errors.Is(err, errEnded) || errors.Is(err, errLease) || ctx.Err() != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	// It stays due; but not at once, or whatever is wrong would be asked for again and again.
	return errors.Join(err, m.s.store.later(ctx, a.ID, m.s.now().Add(m.s.cfg.Policy.Poll)))
}

// remind finds out what has become of a proposal to which there was no answer. Where the provider says that it does not
// know it, the same bytes are sent again.
func (m *maker) remind(ctx context.Context, a Attempt) error {
	o := m.look(ctx, a)
	lost := o.Status != nil && o.Status.Unknown && o.Deal == nil && o.DealID == 0 && o.Pending != nil && !*o.Pending
	if !lost || m.s.forbid(a.Root) || a.Start-o.Heads.Head < m.s.cfg.Policy.StartDelay/4 {
		// Too late to be sealed in time, if it came late, or not to be sent: then it fails when its start has passed.
		return m.record(ctx, a, o)
	}
	may, err := m.s.store.mayRemind(ctx, a)
	if err != nil {
		return err
	}
	p, err := m.s.store.readProvider(ctx, a.Provider)
	if err != nil || !may {
		return m.record(ctx, a, o)
	}
	return m.send(ctx, a, p.Contact, false)
}

// look asks the provider and the chain about an attempt that has been sent and is not active. What does not answer is
// left out.
func (m *maker) look(ctx context.Context, a Attempt) Observation {
	var o Observation
	hinted := m.ask(ctx, a, &o)
	heads := m.s.heads(ctx)
	if heads.Head == 0 {
		return o
	}
	o.Heads = heads
	l, err := m.looker(ctx, a, heads)
	if err != nil {
		m.s.log.Error("looking for a deal on chain", "deal", a.UUID.String(), "err", err)
		return o
	}
	if a.DealID == 0 {
		l.find(ctx, &o, hinted)
	} else {
		l.check(ctx, &o)
	}
	if o.Deal == nil && (o.Gone || a.DealID == 0) {
		l.pending(ctx, &o)
	}
	switch {
	case o.DealID != 0 && a.DealID == 0:
		m.s.cfg.At("publish-found")
	case o.Deal != nil && o.Deal.SectorStart >= 0:
		m.s.cfg.At("active-seen")
	}
	if o.DealID == 0 && a.DealID == 0 && (a.SeenPending || a.Blind || o.Pending != nil && *o.Pending) {
		m.watch.lacksIDs.Store(true)
	}
	return o
}

// ask takes the provider's word, and returns the id that it names.
func (m *maker) ask(ctx context.Context, a Attempt, o *Observation) abi.DealID {
	if a.DealID != 0 {
		return 0 // the chain knows better
	}
	p, err := m.s.store.readProvider(ctx, a.Provider)
	if err != nil || m.s.now().Before(p.OpenUntil) {
		o.Unasked = true
		return 0
	}
	signed, err := m.signature(ctx, a)
	if err != nil {
		o.Unasked = true
		m.s.log.Debug("asking how a deal goes", "deal", a.UUID.String(), "provider", a.Provider.String(), "err", err)
		return 0
	}
	word, err := m.status(ctx, a, p.Contact, signed)
	if err != nil {
		o.Unreachable = true
		m.s.log.Debug("asking how a deal goes", "deal", a.UUID.String(), "provider", a.Provider.String(), "err", err)
		return 0
	}
	if word.Proposal != nil {
		if named, err := word.Proposal.Cid(); err != nil || named != a.ProposalCID {
			m.s.log.Warn("provider tells of another proposal under the id of ours", "deal", a.UUID.String(), "provider", a.Provider.String())
			return 0
		}
	}
	o.Status, o.Named = &word, word.PublishCID
	return word.DealID
}

// A looker looks for one attempt on chain.
type looker struct {
	m      *maker
	a      Attempt
	signed market.DealProposal
	client Client
	heads  Heads
}

func (m *maker) looker(ctx context.Context, a Attempt, heads Heads) (looker, error) {
	signed, err := a.proposal()
	if err != nil {
		return looker{}, err
	}
	client, err := m.s.parts.Chain.Client(ctx)
	if err != nil {
		return looker{}, fmt.Errorf("looking up the client: %w", err)
	}
	return looker{m: m, a: a, signed: signed, client: client, heads: heads}, nil
}

// deal looks at one id. ours is false when the chain has another's deal there.
func (l looker) deal(ctx context.Context, id abi.DealID, final bool) (d OnChain, found, ours bool, err error) {
	d, found, err = l.m.s.parts.Chain.Deal(ctx, id, final)
	if err != nil || !found {
		return d, found, false, err
	}
	if Matches(l.signed, l.client, l.a.Provider, d) {
		return d, true, true, nil
	}
	l.m.s.log.Warn("the chain has another deal under the id of ours", "deal", l.a.UUID.String(), "provider", l.a.Provider.String(), "id", uint64(id))
	return d, true, false, nil
}

// find looks for a deal of unknown id: where the provider says, and in the message that it names.
func (l looker) find(ctx context.Context, o *Observation, hinted abi.DealID) {
	candidates := []abi.DealID{hinted}
	var named abi.DealID
	publish := l.a.PublishCID
	if o.Named.Defined() {
		publish = o.Named
	}
	if publish.Defined() {
		if named = l.lookInto(ctx, o, publish); named != 0 {
			candidates = append(candidates, named)
		}
	}
	gone := false
	for _, id := range candidates {
		if id == 0 || id == o.DealID {
			continue
		}
		d, found, ours, err := l.deal(ctx, id, false)
		switch {
		case err != nil:
		case ours:
			o.DealID, o.Deal = id, &d
		case id == named && !found:
			gone = true
		}
	}
	switch {
	case o.Deal != nil:
		l.settle(ctx, o)
	case gone:
		// The message gave it this id, and it has left the chain before anybody saw it there. Without the id it would be
		// waited for without end.
		o.DealID = named
		l.gone(ctx, o, named)
	}
}

// lookInto looks for the deal in a message, and returns the id that it has there, or 0.
func (l looker) lookInto(ctx context.Context, o *Observation, publish cid.Cid) abi.DealID {
	id, found, err := l.m.s.parts.Chain.Published(ctx, publish, l.signed)
	switch {
	case err != nil:
		l.m.s.log.Debug("looking into a publish message", "deal", l.a.UUID.String(), "err", err)
		return 0
	case !found:
		o.Denied = true
		return 0
	}
	o.PublishCID = publish
	return id
}

// check looks at a deal under the id by which it is known.
func (l looker) check(ctx context.Context, o *Observation) {
	d, found, ours, err := l.deal(ctx, l.a.DealID, false)
	if err != nil {
		return
	}
	if ours {
		o.Deal = &d
		l.settle(ctx, o)
		l.prove(ctx, o)
		return
	}
	// A reorganisation may have given it another id.
	if l.find(ctx, o, 0); o.Deal != nil || o.Gone {
		return
	}
	if found {
		o.Forget = true
		return
	}
	l.gone(ctx, o, l.a.DealID)
}

// prove looks for the deal in the message that its provider has named, where that could not be done when its id was learned.
func (l looker) prove(ctx context.Context, o *Observation) {
	if l.a.Claimed && l.a.PublishCID.Defined() {
		l.lookInto(ctx, o, l.a.PublishCID)
	}
}

// gone notes that the head no longer has a deal, and looks for it in the final tipset once it has to be there.
func (l looker) gone(ctx context.Context, o *Observation, id abi.DealID) {
	o.Gone = true
	if l.heads.Final <= l.a.Start {
		return
	}
	d, found, ours, err := l.deal(ctx, id, true)
	switch {
	case err != nil:
	case ours:
		o.Gone, o.Deal, o.AtFinal = false, &d, true
	case !found:
		o.AtFinal = true
	}
}

// settle looks again in the final tipset where the head shows something that would be a loss.
func (l looker) settle(ctx context.Context, o *Observation) {
	lost := o.Deal.SlashEpoch >= 0 || o.Deal.SectorStart < 0 && l.heads.Final > l.a.Start
	if !lost {
		return
	}
	id := l.a.DealID
	if o.DealID != 0 {
		id = o.DealID
	}
	d, _, ours, err := l.deal(ctx, id, true)
	if err == nil && ours {
		o.Deal, o.AtFinal = &d, true
	}
}

// pending asks whether the proposal is published, when it is time or when it matters.
func (l looker) pending(ctx context.Context, o *Observation) {
	matters := l.a.State == Proposing || l.heads.Final > l.a.Start || o.Gone ||
		o.Status != nil && (o.Status.Unknown || o.Status.Error != "")
	if !matters && l.m.s.now().Sub(l.a.PendingAt) < l.m.s.cfg.Policy.PollSlow {
		return
	}
	pending, err := l.m.s.parts.Chain.Pending(ctx, l.signed)
	if err != nil {
		l.m.s.log.Debug("asking whether a proposal is published", "deal", l.a.UUID.String(), "err", err)
		return
	}
	o.Pending = &pending
}
