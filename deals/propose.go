package deals

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/filecoin-project/go-state-types/crypto"
)

const (
	proposeTime = 70 * time.Second // writing, and an answer for which filters may run first
	statusTime  = 10 * time.Second
	layoutTime  = 30 * time.Second // for a walk, which goes on when it takes longer
)

// propose takes a planned attempt to the provider: asks what it demands now, drafts, signs, stores, and sends.
func (m *maker) propose(ctx context.Context, a Attempt) error {
	s := m.s
	p, err := s.prober.probe(ctx, a.Provider)
	switch {
	case errors.Is(err, ErrNoProvider):
		return m.withdraw(ctx, a, withdrawal{state: Cancelled, reason: a.Provider.String() + " was removed by the operator"})
	case err != nil:
		return m.postpone(ctx, a, err)
	case p.ProbeError != "":
		// The probe is on record, and keeps the provider from being chosen until it answers.
		reason := fmt.Sprintf("%s could not be asked for its conditions: %s", a.Provider, p.ProbeError)
		return m.withdraw(ctx, a, withdrawal{state: Failed, reason: reason})
	}
	s.cfg.At("asked")
	offered, ask, err := m.terms(ctx, a, p)
	if none := (*NoneError)(nil); errors.As(err, &none) {
		return m.withdraw(ctx, a, withdrawal{state: Cancelled, reason: none.Reason, wait: s.cfg.Policy.Poll})
	} else if err != nil {
		return m.postpone(ctx, a, err)
	}
	if err := m.layOut(ctx, a); err != nil {
		return err
	}
	a, proposal, err := m.draft(ctx, a, offered, ask)
	if bad := (*DraftError)(nil); errors.As(err, &bad) {
		s.log.Warn("drafting a proposal", "deal", a.UUID.String(), "provider", a.Provider.String(), "err", bad.Reason)
		return m.withdraw(ctx, a, withdrawal{state: Failed, reason: bad.Reason, wait: s.cfg.Policy.Poll})
	} else if err != nil {
		return m.postpone(ctx, a, err)
	}
	s.cfg.At("drafted")
	if a, err = m.sign(ctx, a, proposal); err != nil {
		return m.postpone(ctx, a, err)
	}
	s.cfg.At("signed")
	a, err = m.commit(ctx, a)
	if err != nil {
		return err
	}
	s.cfg.At("stored")
	return m.send(ctx, a, p.Contact, true)
}

// layOut makes sure that a provider who comes for the piece need not wait until the DAG was walked. The walk was done
// once, but its layout may have had to make room for others.
func (m *maker) layOut(ctx context.Context, a Attempt) error {
	walking, cancel := context.WithTimeout(ctx, layoutTime)
	defer cancel()
	err := m.s.parts.Layouts.Ensure(walking, m.s.parts.Blocks, a.Root)
	switch {
	case err == nil:
		return nil
	case walking.Err() != nil:
		return m.postpone(ctx, a, nil)
	}
	m.s.log.Warn("making the layout of a piece", "cid", a.Root.String(), "err", err)
	// The error may name what users have no business with.
	reason := "the data could not be read from the hot tier, trying again"
	return m.orWithdraw(ctx, a, withdrawal{state: Cancelled, reason: reason, wait: min(10*m.s.cfg.Policy.Poll, m.s.cfg.Policy.PollSlow)})
}

// terms finds out whether the provider still fits now that it was asked anew, and what it gets.
func (m *maker) terms(ctx context.Context, a Attempt, p Provider) (Choice, Ask, error) {
	s := m.s
	providers, err := s.store.providerList(ctx)
	if err != nil {
		return Choice{}, Ask{}, err
	}
	terms, region, natural, err := s.store.slotTerms(ctx, a.Slot)
	if err != nil {
		return Choice{}, Ask{}, err
	}
	choice, err := Fits(p, providers, Question{
		Size: natural, Region: region, Terms: terms, Caps: s.cfg.Caps, Verified: a.Verified,
		PerProvider: s.cfg.PerProvider, MaxPiece: s.cfg.MaxPiece, Now: s.now(),
	})
	if err != nil {
		return Choice{}, Ask{}, err
	}
	if choice.Size != a.Piece.Size {
		// What was planned was a piece of another size: the intent has to say what is done.
		return Choice{}, Ask{}, &NoneError{Reason: fmt.Sprintf("%s takes other piece sizes than before", a.Provider), Retry: s.now()}
	}
	return choice, *p.Ask, nil
}

// draft makes the proposal of an attempt, and the attempt that says the same.
func (m *maker) draft(ctx context.Context, a Attempt, c Choice, ask Ask) (Attempt, market.DealProposal, error) {
	ctx, cancel := context.WithTimeout(ctx, chainTime)
	defer cancel()
	chain := m.s.parts.Chain
	client, err := chain.Client(ctx)
	if err != nil {
		return a, market.DealProposal{}, fmt.Errorf("looking up the client: %w", err)
	}
	heads, err := chain.Heads(ctx)
	if err != nil {
		return a, market.DealProposal{}, fmt.Errorf("looking up the head: %w", err)
	}
	least, _, err := chain.Collateral(ctx, a.Piece.Size, a.Verified)
	if err != nil {
		return a, market.DealProposal{}, fmt.Errorf("looking up the bounds of collateral: %w", err)
	}
	terms, _, _, err := m.s.store.slotTerms(ctx, a.Slot)
	if err != nil {
		return a, market.DealProposal{}, err
	}
	p, err := Draft(DraftInput{
		Client: client.Key, Provider: a.Provider, Ask: ask, Price: c.Price, Piece: a.Piece, Root: a.Root, Head: heads.Head,
		StartDelay: m.s.cfg.Policy.StartDelay, Days: terms.Days, Least: least, Verified: a.Verified,
	})
	if err != nil {
		return a, market.DealProposal{}, err
	}
	a.Start, a.End, a.Price, a.Collateral = p.StartEpoch, p.EndEpoch, p.StoragePricePerEpoch, p.ProviderCollateral
	return a, p, nil
}

// sign makes the bytes that are sent. Nothing has left this process yet.
func (m *maker) sign(ctx context.Context, a Attempt, p market.DealProposal) (Attempt, error) {
	var plain, signed bytes.Buffer
	if err := p.MarshalCBOR(&plain); err != nil {
		return a, fmt.Errorf("encoding a proposal: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, chainTime)
	defer cancel()
	signature, err := m.s.parts.Chain.Sign(ctx, plain.Bytes())
	if err != nil {
		return a, fmt.Errorf("signing a proposal: %w", err)
	}
	deal := market.ClientDealProposal{Proposal: p, ClientSignature: signature}
	if err := deal.MarshalCBOR(&signed); err != nil {
		return a, fmt.Errorf("encoding a signed proposal: %w", err)
	}
	if a.ProposalCID, err = p.Cid(); err != nil {
		return a, fmt.Errorf("naming a proposal: %w", err)
	}
	a.Signed = signed.Bytes()
	a.Message, err = m.s.parts.Market.Compose(a.UUID, deal, a.Root, Transfer{
		URL:    strings.TrimRight(m.s.cfg.PublicURL, "/") + "/" + a.Piece.CIDv1.String(),
		Bearer: m.s.bearer(a.UUID, a.Piece.CIDv1),
		Size:   uint64(a.Piece.RawSize), //nolint:gosec // a length
	})
	if err != nil {
		return a, fmt.Errorf("composing a proposal: %w", err)
	}
	return a, nil
}

// proposal is what an attempt has signed.
func (a Attempt) proposal() (market.DealProposal, error) {
	var deal market.ClientDealProposal
	if err := deal.UnmarshalCBOR(bytes.NewReader(a.Signed)); err != nil {
		return market.DealProposal{}, fmt.Errorf("decoding the signed proposal of deal %s: %w", a.UUID, err)
	}
	return deal.Proposal, nil
}

// commit stores what is about to be sent, or lets the slot wait for what it lacks.
func (m *maker) commit(ctx context.Context, a Attempt) (Attempt, error) {
	var have funding
	if a.Cost().Sign() > 0 || a.Verified {
		var err error
		if have, err = m.s.funds(ctx); err != nil {
			return a, m.postpone(ctx, a, err)
		}
	}
	if m.s.forbid(a.Root) { // since it was asked for the first time
		return a, m.orWithdraw(ctx, a, m.forbidden())
	}
	stored, err := m.s.store.commit(ctx, offer{attempt: a, funds: have, caps: m.s.cfg.Caps})
	if poor := (*fundsError)(nil); errors.As(err, &poor) {
		m.s.keeper.want(a.Slot, amount(poor.short))
	}
	if reason, waits := waitsForMoney(err); waits {
		return a, m.orWithdraw(ctx, a, withdrawal{state: Cancelled, reason: reason, queue: true})
	}
	if errors.Is(err, errRival) {
		return a, m.orWithdraw(ctx, a, withdrawal{state: Cancelled, reason: "the copy is being made elsewhere"})
	}
	if errors.Is(err, errStale) {
		return a, m.postpone(ctx, a, err)
	}
	return stored, err
}

// errEnded says that an attempt goes no further now, and that this is on record.
var errEnded = errors.New("the attempt goes no further now")

func (m *maker) orWithdraw(ctx context.Context, a Attempt, w withdrawal) error {
	return errors.Join(errEnded, m.withdraw(ctx, a, w))
}

// forbidden is how an attempt ends whose bytes must not be given to anybody. The slot waits until the DAG is no longer held.
func (m *maker) forbidden() withdrawal {
	return withdrawal{state: Cancelled, reason: "the operator of this service has blocked this content", wait: m.s.cfg.Policy.Poll}
}

// withdraw ends an attempt of which nothing was sent.
func (m *maker) withdraw(ctx context.Context, a Attempt, w withdrawal) error {
	err := m.s.store.withdraw(ctx, a.ID, a.Root, w)
	if err != nil {
		return fmt.Errorf("withdrawing deal %s: %w", a.UUID, err)
	}
	m.s.log.Info("deal is withdrawn before it was proposed", "deal", a.UUID.String(), "provider", a.Provider.String(), "err", w.reason)
	m.freed()
	return nil
}

// freed lets those look that wait for others to be done.
func (m *maker) freed() {
	signal(m.slots)
	signal(m.queue)
}

// postpone lets an attempt wait for the node or the database. It is nobody's fault.
func (m *maker) postpone(ctx context.Context, a Attempt, why error) error {
	p := m.s.cfg.Policy
	wait := pause(1+int(m.s.now().Sub(a.PlannedAt)/max(p.Poll, 1)), p.Poll, min(10*p.Poll, p.PollSlow))
	return errors.Join(errEnded, why, m.s.store.later(ctx, a.ID, m.s.now().Add(wait)))
}

// send sends what is stored. first tells that it was never sent before: then a provider that is out of reach certainly
// knows nothing of it.
func (m *maker) send(ctx context.Context, a Attempt, c Contact, first bool) error {
	s := m.s
	s.cfg.At("sending")
	sending, cancel := context.WithTimeoutCause(ctx, proposeTime, errors.New("the provider did not answer in time"))
	answer, err := s.parts.Market.Propose(sending, c, a.Message)
	cancel()
	if ctx.Err() != nil {
		return context.Cause(ctx) // what came of it is asked for after the restart
	}
	s.cfg.At("answered")
	var o Observation
	switch {
	case err == nil:
		o.Answer = &answer
	case errors.Is(err, ErrNotSent):
		o.Unreachable, o.Unsent = true, first
	default:
		o.Silent = true
	}
	if err != nil {
		s.log.Info("a proposal was not answered", "deal", a.UUID.String(), "provider", a.Provider.String(), "err", err)
	}
	return m.record(ctx, a, o)
}

// record stores what was observed, and says it.
func (m *maker) record(ctx context.Context, a Attempt, o Observation) error {
	o.Forbidden = m.s.forbid(a.Root)
	after, err := m.s.store.observe(ctx, a, o)
	if err != nil {
		return fmt.Errorf("recording what was seen of deal %s: %w", a.UUID, err)
	}
	if a.State == Rejected && !after.PublishedAt.IsZero() && a.PublishedAt.IsZero() {
		m.s.log.Warn("provider has published a deal that it had refused: consider denying it", "deal", a.UUID.String(),
			"provider", a.Provider.String(), "cid", a.Root.String(), "refusal", a.Reason)
	}
	if after.State == a.State {
		return nil
	}
	m.s.log.Info("deal has moved on", "deal", a.UUID.String(), "provider", a.Provider.String(), "cid", a.Root.String(),
		"from", string(a.State), "to", string(after.State), "reason", after.Reason)
	m.s.meter.moved(a, after)
	if a.State.InFlight() && !after.State.InFlight() || after.State.Final() {
		m.freed()
	}
	m.reached(after)
	return nil
}

// reached passes the failpoint of a state.
func (m *maker) reached(a Attempt) {
	switch a.State {
	case Accepted:
		m.s.cfg.At("accepted")
	case Published, Sealing:
		m.s.cfg.At("published")
	case Active:
		m.s.cfg.At("active")
	case Rejected:
		m.s.cfg.At("rejected")
	case Failed, Missed, Expired, Terminated, Cancelled:
		m.s.cfg.At("ended")
	case Planned, Proposing, Transferring:
	}
}

// signature signs a question about an attempt. The same is asked many times, so it is kept.
func (m *maker) signature(ctx context.Context, a Attempt) (crypto.Signature, error) {
	if known, ok := m.watch.signature(a.ID); ok {
		return known, nil
	}
	ctx, cancel := context.WithTimeout(ctx, chainTime)
	defer cancel()
	made, err := m.s.parts.Chain.Sign(ctx, StatusBytes(a.UUID))
	if err != nil {
		return crypto.Signature{}, fmt.Errorf("signing a question about deal %s: %w", a.UUID, err)
	}
	m.watch.keep(a.ID, made)
	return made, nil
}

// status asks the provider how a deal goes.
func (m *maker) status(ctx context.Context, a Attempt, c Contact, signed crypto.Signature) (ProviderStatus, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, statusTime, errors.New("the provider did not answer in time"))
	defer cancel()
	return m.s.parts.Market.Status(ctx, c, a.UUID, signed)
}
