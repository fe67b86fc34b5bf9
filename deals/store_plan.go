package deals

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
	"gorm.io/gorm"
)

// A planning is what providers are chosen by in one pass.
type planning struct {
	providers   []Provider
	funds       funding
	caps        Caps
	global      int // attempts in flight at once
	perProvider int
	maxPiece    abi.PaddedPieceSize
	verified    bool
	protocol    string
	rand        *rand.Rand
	queued      bool // it is the turn of slots that wait for others
	full        bool // no more deals at once are allowed for slots like the last one
}

// held is the part of the deals at once that is kept for renewals and for lost copies, so that they never wait for a
// backlog of first ones.
func (in *planning) held() int {
	if in.global < 2 {
		return 0
	}
	return max(1, in.global/4)
}

// A funding is what the chain says that we have, nil where it has not said; released is how many deals had locked
// their escrow before it was asked.
type funding struct {
	*Funds
	released uint64
}

// A fundsError says that a deal has to wait for money.
type fundsError struct {
	reason string
	short  abi.TokenAmount // attoFIL that the deal needs; nil: it is not for want of these
}

func (e *fundsError) Error() string { return e.reason }

// plan takes the next step for every slot of a root that is due. It returns how many attempts it has recorded, and what
// each slot needs in the market: zero when it waits for nothing there.
func (s *store) plan(ctx context.Context, root cid.Cid, in *planning) (planned int, short map[SlotID]abi.TokenAmount, err error) {
	err = s.work(ctx, func(tx *gorm.DB) error {
		planned, short, in.full = 0, map[SlotID]abi.TokenAmount{}, false
		d, err := s.open(tx, root)
		if err != nil {
			return err
		}
		for i := range d.slots {
			slot := &d.slots[i]
			if slot.State == Closed || s.now().Before(slot.NextAt) || slot.Queued && !in.queued {
				continue
			}
			before := *slot
			step := Next(d.view(slot), s.policy, s.now(), s.height())
			*slot = s.after(before, step)
			if step.Do == DoPlan {
				short[slot.ID] = big.Zero()
				done, err := s.planSlot(tx, d, slot, step, in)
				if poor := (*fundsError)(nil); errors.As(err, &poor) {
					short[slot.ID] = amount(poor.short)
				}
				if reason, waits := waitsForMoney(err); waits {
					s.enqueue(d, slot, reason)
				} else if err != nil {
					return err
				}
				planned += done
			}
			if err := saveSlot(tx, before, *slot); err != nil {
				return err
			}
		}
		return s.close(tx, d)
	})
	return planned, short, err
}

// A slot that nobody pays for waits for the next look, unless Paid tells of a payment. Plans change too, and nobody tells us of
// that, so that the last pause is not long.
const (
	unpaid      = "the balance is empty; no deal is begun or renewed until it is topped up"
	unpaidRetry = 5 * time.Minute
	unpaidMost  = 30 * time.Minute
)

// planSlot records the intent to fill a slot, or notes in the slot why that has to wait. Errors that are no failure:
// *CapError, *fundsError.
func (s *store) planSlot(tx *gorm.DB, d *dossier, slot *Slot, step Step, in *planning) (planned int, err error) {
	if step.Renews == 0 {
		if adopted, err := s.adopt(tx, d, slot, in.providers); adopted || err != nil {
			return 0, err
		}
	}
	a := d.archive(slot.Archive)
	if s.paid != nil {
		paid, err := s.paid(tx.Statement.Context, Wish{Root: d.root, Terms: a.terms})
		if err != nil {
			return 0, err
		}
		if !paid {
			s.putOff(slot, unpaid, s.now(), unpaidRetry, unpaidMost)
			return 0, nil
		}
	}
	busy, total, err := busyProviders(tx)
	if err != nil {
		return 0, err
	}
	q := s.question(d, slot, step, in)
	q.Busy = busy
	choice, err := Choose(in.providers, q)
	if none := (*NoneError)(nil); errors.As(err, &none) {
		q.Busy = nil
		if _, err := Choose(in.providers, q); err == nil {
			s.enqueue(d, slot, none.Reason)
			return 0, nil //nolint:nilerr // that nobody fits is the slot's reason, not an error
		}
		s.putOff(slot, none.Reason, s.between(none.Retry), s.policy.Poll, s.policy.RetryMax)
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	most := in.global
	if turnOf(d, slot) == turnFirst {
		most -= in.held()
	}
	if in.full = total >= most; in.full {
		s.enqueue(d, slot, fmt.Sprintf("%d deals are under way, and more at once are not allowed", total))
		return 0, nil
	}
	t := Attempt{
		UUID: uuid.New(), Slot: slot.ID, Archive: a.ID, Root: d.root, Renews: step.Renews, Provider: choice.Provider.ID,
		Protocol: in.protocol, Verified: in.verified, State: Planned, Day: dayOf(s.now()),
		Reserved: DealCost(choice.Price, choice.Size, Epoch(a.Terms.Days)*EpochsPerDay),
	}
	t.PlannedAt, t.ChangedAt, t.NextAt = s.now(), s.now(), s.now()
	if t.Piece, err = a.Piece.PadTo(choice.Size); err != nil {
		return 0, err
	}
	if err := s.pay(tx, t, t.Reserved, in.funds, in.caps); err != nil {
		return 0, err
	}
	if t.Generation, err = nextGeneration(tx, slot.ID); err != nil {
		return 0, err
	}
	pieceID, err := s.addPiece(tx, d.root, t.Piece)
	if err != nil {
		return 0, err
	}
	if t.ID, err = insertAttempt(tx, t, pieceID); err != nil {
		return 0, err
	}
	d.attempts = append(d.attempts, t)
	slot.Waits = 0
	*slot = s.after(*slot, Next(d.view(slot), s.policy, s.now(), s.height()))
	return 1, nil
}

func waitsForMoney(err error) (reason string, waits bool) {
	if e := (*CapError)(nil); errors.As(err, &e) {
		return e.Reason, true
	}
	if e := (*fundsError)(nil); errors.As(err, &e) {
		return e.reason, true
	}
	return "", false
}

// pay charges a deal to its day and reserves its escrow. Errors: *CapError, *fundsError; errStale when funds is out of
// date.
func (s *store) pay(tx *gorm.DB, t Attempt, cost abi.TokenAmount, funds funding, caps Caps) error {
	if funds.Funds != nil {
		if err := s.afford(tx, t, cost, funds); err != nil {
			return err
		}
	}
	return s.charge(tx, t.Day, cost, caps)
}

// afford refuses what the market would refuse for want of escrow or datacap.
func (s *store) afford(tx *gorm.DB, t Attempt, cost abi.TokenAmount, funds funding) error {
	if t.Verified {
		var promised int64
		err := tx.Raw(`SELECT CAST(coalesce(sum(p.size), 0) AS BIGINT) FROM attempts a JOIN pieces p ON p.id = a.piece_id WHERE a.verified = 1 AND a.id <> ?
			AND a.state IN ('planned','proposing','accepted','transferring')`, int64(t.ID)).Row().Scan(&promised)
		if err != nil {
			return err
		}
		if left := big.Sub(amount(funds.Datacap), big.NewInt(promised)); left.LessThan(big.NewIntUnsigned(uint64(t.Piece.Size))) {
			return &fundsError{reason: fmt.Sprintf("the deal needs %d bytes of datacap, and %s are left", t.Piece.Size, left)}
		}
	}
	if cost.IsZero() {
		return nil
	}
	if s.released.Load() != funds.released {
		return errStale
	}
	reserved, err := s.reserved(tx)
	if err != nil {
		return err
	}
	free := big.Sub(big.Sub(amount(funds.Escrow), amount(funds.Locked)), reserved)
	if free.LessThan(cost) {
		return &fundsError{
			reason: fmt.Sprintf("the deal needs %s in the market, and %s are free there", FIL(cost), FIL(big.Max(free, big.Zero()))),
			short:  cost,
		}
	}
	return nil
}

// nextGeneration is the number of the next attempt of a slot.
func nextGeneration(tx *gorm.DB, slot SlotID) (n int, err error) {
	err = tx.Raw(`SELECT coalesce(max(generation), 0) + 1 FROM attempts WHERE slot_id = ?`, int64(slot)).Row().Scan(&n)
	return n, err
}

// question asks for a provider for a slot.
func (s *store) question(d *dossier, slot *Slot, step Step, in *planning) Question {
	a := d.archive(slot.Archive)
	q := Question{
		Region: slot.Region, Terms: a.Terms, Prefer: step.Prefer, Caps: in.caps, Verified: in.verified,
		PerProvider: in.perProvider, MaxPiece: in.maxPiece, Now: s.now(), Rand: in.rand,
		Taken: taken(d, step.Renews), MayYet: mayYet(d, s.height()), Cooling: cooling(d, s.policy),
	}
	if a.Piece != nil {
		q.Size = a.Piece.Size
	}
	return q
}

// taken names the providers that have a copy of a root or are about to: but for the one that is renewed.
func taken(d *dossier, renewed AttemptID) map[ProviderID]bool {
	out := map[ProviderID]bool{}
	for _, a := range d.attempts {
		if !a.State.Final() && (a.ID != renewed || renewed == 0) {
			out[a.Provider] = true
		}
	}
	return out
}

// mayYet names the providers that may still come to have a copy of a root. One that has given an accepted deal up may still
// publish it before it was to start, and that has to be known then. So may one that has refused it: it has what we signed. It
// is asked again where it says that it may take the next one, or where the operator says so.
func mayYet(d *dossier, head Epoch) map[ProviderID]bool {
	out := map[ProviderID]bool{}
	for _, a := range d.attempts {
		slot := d.slot(a.Slot)
		asked := a.State == Rejected && (a.Retryable || slot != nil && !a.EndedAt.After(slot.Forgiven))
		if a.mayYet() && !asked && (head <= a.Start+eventDepth || a.Reserved.Sign() > 0) {
			out[a.Provider] = true
		}
	}
	return out
}

// coolMost bounds how long a provider that has failed a piece is not asked for it.
const coolMost = 30 * day

// cooling tells until when providers that failed with this root are not asked for it: longer with each failure.
func cooling(d *dossier, p Policy) map[ProviderID]time.Time {
	out, failures := map[ProviderID]time.Time{}, map[ProviderID]int{}
	for _, a := range d.attempts { // in the order in which they were made
		if !a.ActiveAt.IsZero() && a.State != Terminated {
			delete(out, a.Provider)
			delete(failures, a.Provider)
			continue
		}
		switch a.State {
		case Rejected, Failed, Missed, Terminated:
		case Planned, Proposing, Accepted, Transferring, Published, Sealing, Active, Expired, Cancelled:
			continue
		}
		if slot := d.slot(a.Slot); slot != nil && !a.EndedAt.After(slot.Forgiven) {
			continue
		}
		wait := p.CoolDown
		switch {
		case a.SentAt.IsZero():
			wait = min(wait, p.RetryFirst) // it was out of reach: nothing to do with the piece
		case a.Retryable:
			wait = min(wait, p.PollSlow)
		}
		for range min(failures[a.Provider], 10) {
			wait *= 2
		}
		failures[a.Provider]++
		if until := a.EndedAt.Add(min(wait, coolMost)); until.After(out[a.Provider]) {
			out[a.Provider] = until
		}
	}
	return out
}

// adopt fills a slot with a copy that nobody wants any more under the terms for which it was made: so raising or
// lowering the number of copies makes only those that are missing.
func (s *store) adopt(tx *gorm.DB, d *dossier, slot *Slot, providers []Provider) (bool, error) {
	a := d.archive(slot.Archive)
	var best *Attempt
	for i := range d.attempts {
		t := &d.attempts[i]
		if t.State.Final() || t.State == Planned || d.archive(t.Archive).Wanted || !suits(t.Provider, a.Terms, slot.Region, providers) {
			continue
		}
		if stuck(*t, s.policy, s.now(), s.height()) || sharesProvider(d, *t) {
			continue
		}
		if best == nil || best.State.before(t.State) || best.State == t.State && t.End > best.End {
			best = t
		}
	}
	if best == nil {
		return false, nil
	}
	if err := take(tx, slot, best); err != nil {
		return false, err
	}
	// A renewal that is under way comes with it, or it would be bought a second time. One that does not suit runs out.
	for i := range d.attempts {
		t := &d.attempts[i]
		if t.Renews != best.ID || t.State.Final() || d.archive(t.Archive).Wanted || !suits(t.Provider, a.Terms, slot.Region, providers) {
			continue
		}
		if err := take(tx, slot, t); err != nil {
			return false, err
		}
	}
	*slot = s.after(*slot, Next(d.view(slot), s.policy, s.now(), s.height()))
	return true, nil
}

// take makes an attempt one of a slot.
func take(tx *gorm.DB, slot *Slot, t *Attempt) (err error) {
	t.Slot, t.Archive = slot.ID, slot.Archive
	if t.Generation, err = nextGeneration(tx, slot.ID); err != nil {
		return err
	}
	return tx.Exec(`UPDATE attempts SET slot_id = ?, archive_id = ?, generation = ? WHERE id = ?`,
		int64(t.Slot), int64(t.Archive), t.Generation, int64(t.ID)).Error
}

// sharesProvider tells whether a wanted copy is with the same provider already: the two would be one.
func sharesProvider(d *dossier, t Attempt) bool {
	return slices.ContainsFunc(d.attempts, func(other Attempt) bool {
		return other.ID != t.ID && other.Provider == t.Provider && !other.State.Final() && d.archive(other.Archive).Wanted
	})
}

// suits tells whether a provider's copy keeps a promise.
func suits(id ProviderID, t Terms, region string, providers []Provider) bool {
	i := slices.IndexFunc(providers, func(p Provider) bool { return p.ID == id })
	if i < 0 || providers[i].Trust == Denied {
		return false
	}
	if len(t.Providers) > 0 && !slices.Contains(t.Providers, id) {
		return false
	}
	return region == "" || CanonicalRegion(providers[i].Region) == CanonicalRegion(region)
}
