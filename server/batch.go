package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	"github.com/ipfs/go-cid"
	"github.com/labstack/echo/v4"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/auth/ledger"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/server/v1"
	"github.com/frostpin/frostpin/spec"
)

const (
	maxBatch     = 1000
	maxBatchBody = 4 << 20
)

// AddPins records many requests, each for itself.
func (s ownAPI) AddPins(c echo.Context, params v1.AddPinsParams) error {
	key, err := idempotencyKey(params.IdempotencyKey)
	if err != nil {
		return err
	}
	body, items, err := readBatch(c)
	if err != nil {
		return err
	}
	if err := s.gate.spendMore(caller(c), auth.KindWrite, len(items)-1); err != nil {
		return err
	}
	ctx := c.Request().Context()
	batch, err := s.pins.BeginBatch(ctx, account(c), key, body)
	if err != nil {
		return err
	}
	defer s.pins.EndBatch(ctx, batch)
	if more := len(items) - len(batch.Made); more > 0 {
		if err := s.room(c, int64(more)); err != nil {
			return err
		}
	}
	delegates, err := api(s).delegates(c)
	if err != nil {
		return err
	}
	results := make([]v1.BatchResult, len(items))
	for i, made := range s.recordBatch(c, items, batch) {
		if made.Err != nil {
			results[i] = s.refusedItem(c, made.Err)
			continue
		}
		status := render(&made.Pin, delegates)
		pin := v1.PinStatus(spec.AppendPinStatus(nil, &status))
		results[i] = v1.BatchResult{Code: http.StatusAccepted, Pin: &pin}
	}
	return s.respond(c, http.StatusOK, v1.BatchResults{Results: results})
}

// recordBatch records what of a list was not recorded before. Results are in the order of the list.
func (s ownAPI) recordBatch(c echo.Context, items []json.RawMessage, batch *pins.Batch) []pins.Result {
	results := make([]pins.Result, len(items))
	var asked []pins.Asked
	for i, item := range items {
		if before, ok := batch.Made[i]; ok {
			results[i] = before
			continue
		}
		r, decided, err := s.batchItem(c, item)
		if err != nil {
			results[i].Err = err
			continue
		}
		asked = append(asked, pins.Asked{Request: r, Decision: decided, Batch: batch, Place: i})
	}
	paid, err := s.admitted(c, asked, results)
	if err != nil {
		for _, a := range asked {
			results[a.Place].Err = err
		}
		return results
	}
	for j, made := range s.pins.AddAll(c.Request().Context(), account(c), paid) {
		results[paid[j].Place] = made
	}
	return results
}

// admitted returns those of a list that the caller's plan has room for and its balance carries, and notes why the others are
// refused. What is kept of replaced pins gives way to what is admitted only.
func (s ownAPI) admitted(c echo.Context, asked []pins.Asked, results []pins.Result) (paid []pins.Asked, err error) {
	ctx, quota := c.Request().Context(), quotaOf(caller(c).Limits)
	for range 2 { // once more without what is not paid for: its room is there for the others
		refused, _, err := s.pins.Fits(ctx, account(c), quota, sized(asked), "")
		if err != nil {
			return nil, err
		}
		var fit []pins.Asked
		for i, a := range asked {
			if results[a.Place].Err = refused[i]; refused[i] == nil {
				fit = append(fit, a)
			}
		}
		paid = s.affordable(c, fit, results)
		if len(paid) == len(fit) || len(fit) == len(asked) {
			break
		}
		unpaid := map[int]bool{}
		for _, a := range fit {
			unpaid[a.Place] = true
		}
		for _, a := range paid {
			delete(unpaid, a.Place)
		}
		asked = slices.DeleteFunc(slices.Clone(asked), func(a pins.Asked) bool { return unpaid[a.Place] })
	}
	_, needed, err := s.pins.Fits(ctx, account(c), quota, sized(paid), "")
	if err == nil && needed > 0 {
		_, err = s.pins.GiveWay(ctx, account(c), "", needed, pins.Roots(sized(paid))...)
	}
	return paid, err
}

// sized are DAGs of which nobody has told the size.
func sized(asked []pins.Asked) []pins.Sized {
	dags := make([]pins.Sized, len(asked))
	for i, a := range asked {
		dags[i].Root = a.Root
	}
	return dags
}

// readBatch reads an array of pins, none of which is looked at yet.
func readBatch(c echo.Context) (body []byte, items []json.RawMessage, err error) {
	body, err = readBody(c, maxBatchBody)
	if err == nil {
		err = spec.CheckJSON(body)
	}
	if err != nil {
		return nil, nil, err
	}
	if err := json.NewDecoder(bytes.NewReader(body)).Decode(&items); err != nil || !json.Valid(body) {
		return nil, nil, &spec.InvalidError{Field: "body", Problem: "is not a JSON array of pins"}
	}
	if len(items) < 1 || len(items) > maxBatch {
		return nil, nil, &spec.InvalidError{Field: "body", Problem: fmt.Sprintf("must be an array of 1 to %d pins", maxBatch)}
	}
	return body, items, nil
}

// batchItem is what is asked of one pin before it is recorded.
func (s ownAPI) batchItem(c echo.Context, item json.RawMessage) (spec.Request, pins.Decision, error) {
	if len(item) > maxBody {
		return spec.Request{}, pins.Decision{}, &tooLargeError{maxBody}
	}
	r, err := spec.DecodePin(item)
	if err == nil && s.cfg.Denylist != nil {
		err = s.cfg.Denylist.Denied(r.Root)
	}
	if err != nil {
		return r, pins.Decision{}, err
	}
	decided, err := s.pins.Decide(c.Request().Context(), choiceOf(c), r.Meta)
	return r, decided, err
}

// affordable returns those of a list that the caller's balance carries together, and notes why the others are refused. What fits
// is asked about only: what is kept of replaced pins must not give way to what is refused anyway.
func (s ownAPI) affordable(c echo.Context, asked []pins.Asked, results []pins.Result) []pins.Asked {
	if !s.pays(c) {
		return asked
	}
	roots := make([]cid.Cid, len(asked))
	for i, a := range asked {
		roots[i] = a.Root
	}
	var paid []pins.Asked
	var weighed []cid.Cid
	var together ledger.Stock
	for i, a := range asked {
		more, err := s.weigh(c, a.Root, 0, a.Copies)
		more.Hot, more.Cold = together.Hot+more.Hot, together.Cold+more.Cold
		if err == nil {
			err = s.carries(c, more, append(weighed, a.Root), roots[i+1:], "")
		}
		if err != nil {
			results[a.Place].Err = err
			continue
		}
		paid, weighed, together = append(paid, a), append(weighed, a.Root), more
	}
	return paid
}

// refusedItem is what an error means for one pin of a batch.
func (s ownAPI) refusedItem(c echo.Context, err error) v1.BatchResult {
	v := s.judge(c, err)
	s.logFailure(c, v, err)
	return v1.BatchResult{Code: int32(v.status), Reason: known(v.reason), Details: known(v.details)} //nolint:gosec // three digits
}
