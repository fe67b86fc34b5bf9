package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/ipfs/go-cid"
	"github.com/labstack/echo/v4"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/server/v1"
	"github.com/frostpin/frostpin/spec"
)

// A Blocklist is what the operator has blocked. What it says reaches readers and pins through Config.Denylist and Pins.
type Blocklist interface {
	// Block blocks content. What is blocked already stays as it is: added is false then. What cannot be a block is a
	// *spec.InvalidError.
	Block(ctx context.Context, by auth.Actor, c cid.Cid, reason string) (b pins.Block, added bool, err error)
	// Unblock takes a block back, or returns pins.ErrNotBlocked.
	Unblock(ctx context.Context, by auth.Actor, c cid.Cid) error
	// List returns blocks in the order of their IDs, those after one.
	List(ctx context.Context, after int64, limit int) ([]pins.Block, error)
}

var errNoBlocklist = errors.New("nothing is blocked here")

// Bounds of one page of blocks.
const (
	defaultBlocks = 100
	maxBlocks     = 1000
)

// ListBlocks lists what is blocked.
func (s ownAPI) ListBlocks(c echo.Context, params v1.ListBlocksParams) error {
	if s.cfg.Blocklist == nil {
		return errNoBlocklist
	}
	limit := int32(defaultBlocks)
	if params.Limit != nil {
		limit = *params.Limit
	}
	if limit < 1 || limit > maxBlocks {
		return &spec.InvalidError{Field: "limit", Problem: fmt.Sprintf("must be from 1 to %d", maxBlocks)}
	}
	// One more than is shown tells whether there is another page.
	found, err := s.cfg.Blocklist.List(c.Request().Context(), given(params.After), int(limit)+1)
	if err != nil {
		return err
	}
	list := v1.BlockList{Blocks: []v1.Block{}}
	if len(found) > int(limit) {
		found = found[:limit]
		list.Next = &found[limit-1].ID
	}
	for _, b := range found {
		list.Blocks = append(list.Blocks, renderBlock(b))
	}
	return s.respond(c, http.StatusOK, list)
}

// AddBlock blocks content.
func (s ownAPI) AddBlock(c echo.Context) error {
	if s.cfg.Blocklist == nil {
		return errNoBlocklist
	}
	var req v1.BlockRequest
	if err := readObject(c, &req, "cid and reason"); err != nil {
		return err
	}
	content, err := blockedCID(req.Cid)
	if err != nil {
		return err
	}
	b, added, err := s.cfg.Blocklist.Block(c.Request().Context(), caller(c).Actor(), content, strings.TrimSpace(req.Reason))
	if err != nil {
		return err
	}
	if !added {
		return s.respond(c, http.StatusOK, renderBlock(b))
	}
	return s.respond(c, http.StatusCreated, renderBlock(b))
}

// RemoveBlock takes a block back.
func (s ownAPI) RemoveBlock(c echo.Context, text string) error {
	if s.cfg.Blocklist == nil {
		return errNoBlocklist
	}
	content, err := blockedCID(text)
	if err != nil {
		return err
	}
	if err := s.cfg.Blocklist.Unblock(c.Request().Context(), caller(c).Actor(), content); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

func blockedCID(text string) (cid.Cid, error) {
	c, err := cid.Decode(text)
	if err != nil {
		return cid.Undef, &spec.InvalidError{Field: "cid", Problem: "is not a CID"}
	}
	return c, nil
}

func renderBlock(b pins.Block) v1.Block {
	return v1.Block{Cid: b.CID.String(), Reason: b.Reason, By: b.By, At: whole(b.At)}
}
