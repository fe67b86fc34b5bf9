package server

import (
	"fmt"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/server/v1"
	"github.com/frostpin/frostpin/spec"
)

// Bounds of one page of accounts.
const (
	defaultAccounts = 100
	maxAccounts     = 1000
)

// ListAccounts lists and searches accounts.
func (s ownAPI) ListAccounts(c echo.Context, params v1.ListAccountsParams) error {
	limit := int32(defaultAccounts)
	if params.Limit != nil {
		limit = *params.Limit
	}
	if limit < 1 || limit > maxAccounts {
		return &spec.InvalidError{Field: "limit", Problem: fmt.Sprintf("must be from 1 to %d", maxAccounts)}
	}
	// One more than is shown tells whether there is another page.
	found, err := s.accounts.SearchAccounts(c.Request().Context(), given(params.Search), given(params.After), int(limit)+1)
	if err != nil {
		return err
	}
	list := v1.AccountList{Accounts: []v1.AccountSummary{}}
	if len(found) > int(limit) {
		found = found[:limit]
		list.Next = &found[limit-1].ID
	}
	for _, a := range found {
		list.Accounts = append(list.Accounts, renderSummary(a))
	}
	return s.respond(c, http.StatusOK, list)
}

// CreateAccount creates an account with its first token.
func (s ownAPI) CreateAccount(c echo.Context) error {
	var req v1.AccountRequest
	if err := readObject(c, &req, "name, and maybe plan"); err != nil {
		return err
	}
	plan := auth.Trusted
	if req.Plan != nil {
		plan = *req.Plan
	}
	r, err := s.accounts.Register(c.Request().Context(), caller(c).Actor(), req.Name, plan)
	if err != nil {
		return err
	}
	return s.respond(c, http.StatusCreated, renderRegistration(r))
}

// ShowAccount shows an account with what it uses.
func (s ownAPI) ShowAccount(c echo.Context, name v1.AccountName) error {
	account, err := s.accounts.AccountByName(c.Request().Context(), name)
	if err != nil {
		return unless(err, errNoAccount)
	}
	return s.showAccount(c, account)
}

// SetAccountPlan gives an account another plan.
func (s ownAPI) SetAccountPlan(c echo.Context, name v1.AccountName) error {
	var req v1.PlanRequest
	if err := readObject(c, &req, "plan"); err != nil {
		return err
	}
	if err := s.accounts.SetAccountPlan(c.Request().Context(), caller(c).Actor(), name, req.Plan); err != nil {
		return unless(err, errNoAccount)
	}
	return c.NoContent(http.StatusNoContent)
}

// SuspendAccount lets an account add nothing more.
func (s ownAPI) SuspendAccount(c echo.Context, name v1.AccountName) error {
	return s.setState(c, name, auth.Suspended)
}

// ResumeAccount takes that back.
func (s ownAPI) ResumeAccount(c echo.Context, name v1.AccountName) error {
	return s.setState(c, name, auth.Active)
}

// CloseAccount ends an account.
func (s ownAPI) CloseAccount(c echo.Context, name v1.AccountName) error {
	return s.setState(c, name, auth.Closed)
}

func (s ownAPI) setState(c echo.Context, name string, state auth.State) error {
	if err := s.accounts.SetAccountState(c.Request().Context(), caller(c).Actor(), name, state); err != nil {
		return unless(err, errNoAccount)
	}
	return c.NoContent(http.StatusNoContent)
}
