package server

import (
	"context"
	"errors"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/frostpin/frostpin/auth/events"
	"github.com/frostpin/frostpin/auth/hooks"
	"github.com/frostpin/frostpin/server/v1"
	"github.com/frostpin/frostpin/spec"
)

// Webhooks call addresses that accounts name; hooks.Service is one.
type Webhooks interface {
	Create(ctx context.Context, account int64, address string, types []string, label string) (h hooks.Hook, secret string, err error)
	Hooks(ctx context.Context, account int64) ([]hooks.Hook, error)
	Remove(ctx context.Context, account int64, id string) error
	Deliveries(ctx context.Context, account int64, id string, before int64, limit int) ([]hooks.Delivery, error)
	Replay(ctx context.Context, account int64, id string, after events.Position) error
}

var errNoWebhooks = errors.New("nobody is called here")

const deliveriesPage = 100

// CreateWebhook makes a webhook.
func (s ownAPI) CreateWebhook(c echo.Context) error {
	if s.cfg.Webhooks == nil {
		return errNoWebhooks
	}
	var req v1.WebhookRequest
	if err := readObject(c, &req, "url, and maybe types and label"); err != nil {
		return err
	}
	h, secret, err := s.cfg.Webhooks.Create(c.Request().Context(), caller(c).Account, req.Url, given(req.Types), given(req.Label))
	if err != nil {
		return err
	}
	return s.respond(c, http.StatusCreated, v1.NewWebhook{Webhook: renderWebhook(h), Secret: secret})
}

// ListWebhooks lists the account's.
func (s ownAPI) ListWebhooks(c echo.Context) error {
	if s.cfg.Webhooks == nil {
		return errNoWebhooks
	}
	list, err := s.cfg.Webhooks.Hooks(c.Request().Context(), caller(c).Account)
	if err != nil {
		return err
	}
	answer := v1.WebhookList{Webhooks: []v1.Webhook{}}
	for _, h := range list {
		answer.Webhooks = append(answer.Webhooks, renderWebhook(h))
	}
	return s.respond(c, http.StatusOK, answer)
}

// DeleteWebhook ends one.
func (s ownAPI) DeleteWebhook(c echo.Context, id v1.Webhookid) error {
	if s.cfg.Webhooks == nil {
		return errNoWebhooks
	}
	if err := s.cfg.Webhooks.Remove(c.Request().Context(), caller(c).Account, id); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

// ListDeliveries tells what has become of the calls of one.
func (s ownAPI) ListDeliveries(c echo.Context, id v1.Webhookid, params v1.ListDeliveriesParams) error {
	if s.cfg.Webhooks == nil {
		return errNoWebhooks
	}
	list, err := s.cfg.Webhooks.Deliveries(c.Request().Context(), caller(c).Account, id, given(params.Before), deliveriesPage)
	if err != nil {
		return err
	}
	answer := v1.DeliveryList{Deliveries: []v1.Delivery{}}
	for _, d := range list {
		answer.Deliveries = append(answer.Deliveries, v1.Delivery{
			Event: d.Event, State: v1.DeliveryState(d.State), Attempts: d.Attempts, Next: moment(d.Next),
			Code: known(int32(d.Code)), Problem: known(d.Problem), Made: whole(d.Made), //nolint:gosec // three digits
		})
	}
	if len(list) == deliveriesPage {
		answer.Next = &list[deliveriesPage-1].ID
	}
	return s.respond(c, http.StatusOK, answer)
}

// ReplayWebhook has events sent again.
func (s ownAPI) ReplayWebhook(c echo.Context, id v1.Webhookid, params v1.ReplayWebhookParams) error {
	if s.cfg.Webhooks == nil {
		return errNoWebhooks
	}
	after := events.Position{}
	if params.After != nil {
		var err error
		if after, err = events.ParsePosition(*params.After); err != nil {
			return &spec.InvalidError{Field: "after", Problem: "is not the id of an event"}
		}
	}
	if err := s.cfg.Webhooks.Replay(c.Request().Context(), caller(c).Account, id, after); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

func renderWebhook(h hooks.Hook) v1.Webhook {
	types := h.Types
	if types == nil {
		types = []string{}
	}
	return v1.Webhook{
		Id: h.ID, Url: h.URL, Types: types, Label: h.Label, Created: whole(h.Created), Disabled: known(h.Disabled), Failures: h.Failures,
	}
}

// judgeHooks knows the errors of webhooks.
func judgeHooks(err error) (verdict, bool) {
	var bad *hooks.InvalidError
	switch {
	case errors.As(err, &bad):
		return verdict{http.StatusBadRequest, spec.ReasonBadRequest, bad.Error()}, true
	case errors.Is(err, hooks.ErrNotFound):
		return verdict{http.StatusNotFound, spec.ReasonNotFound, "there is no such webhook"}, true
	case errors.Is(err, hooks.ErrTooMany):
		return verdict{http.StatusForbidden, spec.ReasonQuotaExceeded, "this account has as many webhooks as there may be; remove some, or repeat this in a minute if you have: one that is removed counts until its deliveries are gone"}, true
	case errors.Is(err, errNoWebhooks):
		return verdict{http.StatusNotFound, spec.ReasonNotFound, "this server calls no webhooks"}, true
	}
	return verdict{}, false
}
