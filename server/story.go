package server

import (
	"cmp"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/frostpin/frostpin/auth/events"
	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/server/v1"
	"github.com/frostpin/frostpin/spec"
)

// GetPinStory tells all that is known of a pin.
func (s ownAPI) GetPinStory(c echo.Context, requestid v1.Requestid) error {
	id, err := parseID(requestid)
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	p, err := s.pins.Get(ctx, account(c), id)
	if err != nil {
		return err
	}
	delegates, err := api(s).delegates(c)
	if err != nil {
		return err
	}
	w, wished := p.Wish()
	list, err := s.dealList(ctx, w, wished && s.cfg.Cold != nil, defaultDeals)
	if err != nil {
		return err
	}
	copies, err := s.copies(c, &p)
	if err != nil {
		return err
	}
	var cost *string
	if s.pays(c) {
		sum, err := s.cfg.Ledger.CostOf(ctx, caller(c).Account, string(p.ID))
		if err != nil {
			return err
		}
		cost = new(string)
		*cost = sum.String()
	}
	history, err := s.history(c, &p)
	if err != nil {
		return err
	}
	status := render(&p, delegates)
	return s.respond(c, http.StatusOK, v1.PinStory{
		Pin:       spec.AppendPinStatus(nil, &status),
		ExpiresAt: moment(p.Expires),
		Hot:       renderHot(&p),
		Cold:      copies,
		Deals:     list,
		Cost:      cost,
		History:   history,
	})
}

// storyEvents is how many events a story has.
const storyEvents = 50

// history is what has become of a pin, the newest first; nil where nothing is recorded.
func (s ownAPI) history(c echo.Context, p *pins.Pin) (*[]v1.Event, error) {
	if s.cfg.Events == nil {
		return nil, nil //nolint:nilnil // there is none, and nothing went wrong
	}
	pin := events.Pin{ID: string(p.ID), CID: p.CID, Name: given(p.Name)}
	found, err := s.cfg.Events.History(c.Request().Context(), int64(p.Account), pin, p.Root.String(), int64(max(0, p.Terms)), p.Created, storyEvents)
	if err != nil {
		return nil, err
	}
	list := make([]v1.Event, 0, len(found))
	for _, e := range found {
		shown, err := renderEvent(e)
		if err != nil {
			return nil, err
		}
		list = append(list, shown)
	}
	return &list, nil
}

func renderHot(p *pins.Pin) v1.HotCopy {
	h := v1.HotCopy{
		State:      v1.HotCopyState(p.DAG.Hot),
		Residence:  v1.HotCopyResidence(p.Residence.String()),
		Blocks:     p.DAG.Blocks,
		Bytes:      p.DAG.Bytes,
		Attempts:   int32(p.DAG.Attempts), //nolint:gosec // tries are counted in thousands
		Reason:     known(p.DAG.Reason),
		VerifiedAt: moment(p.Verified),
	}
	switch p.DAG.Hot {
	case pins.HotQueued, pins.HotFetching, pins.HotRestoring:
		if p.DAG.Attempts > 0 {
			h.NextTryAt = moment(p.DAG.NextAt)
		}
	case pins.HotHeld, pins.HotOffloaded, pins.HotGaveUp, pins.HotReleasing: // nothing is tried
	}
	return h
}

// copies is how the cold copies of a pin stand.
func (s ownAPI) copies(c echo.Context, p *pins.Pin) (v1.ColdCopies, error) {
	answer := v1.ColdCopies{
		Status:     v1.ColdCopiesStatus(cmp.Or(p.Cold.Cold, deals.ColdDisabled)),
		Wanted:     int32(p.Cold.Wanted),  //nolint:gosec // at most 100
		Active:     int32(p.Cold.Active),  //nolint:gosec // likewise
		InProgress: int32(p.Cold.Working), //nolint:gosec // likewise
		Reason:     known(p.Cold.Reason),
	}
	if p.Cold.NextAt.UnixMilli() > 0 {
		answer.NextCheckAt = moment(p.Cold.NextAt)
	}
	w, wished := p.Wish()
	if !wished || s.cfg.Cold == nil {
		return answer, nil
	}
	ctx := c.Request().Context()
	terms, err := s.cfg.Cold.TermsOf(ctx, w.Terms)
	if err != nil {
		return answer, err
	}
	answer.Terms = renderTerms(terms)
	back, err := s.cfg.Cold.ReadBack(ctx, p.Root)
	if !back.IsZero() {
		answer.ReadBackAt = &back
	}
	return answer, err
}

func renderTerms(t deals.Terms) *v1.Terms {
	shown := &v1.Terms{Replicas: int32(t.Replicas), DurationDays: int32(t.Days)} //nolint:gosec // at most 100, at most 1278
	if len(t.Regions) > 0 {
		shown.Regions = &t.Regions
	}
	if len(t.Providers) > 0 {
		providers := make([]string, len(t.Providers))
		for i, id := range t.Providers {
			providers[i] = id.String()
		}
		shown.Providers = &providers
	}
	return shown
}
