package server

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/ipfs/boxo/path"
	"github.com/ipfs/go-cid"
	"github.com/labstack/echo/v4"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/server/v1"
	"github.com/frostpin/frostpin/spec"
)

// What a link has in its query.
const (
	linkExpires   = "frostpin-expires"   // Unix seconds
	linkSignature = "frostpin-signature" // DEPTH.ACCOUNT.MAC
)

// Bounds of links.
const (
	minLinkKey  = 32
	minLinkLife = 1
	maxLinkLife = 30 * 24 * 60 * 60
	linkLife    = 60 * 60
	maxLinkPath = 4096
)

// A linkKey signs links. A link opens one path and what is below it, to whoever has it, until it expires or the account
// that made it no longer pins the root.
type linkKey []byte

// A refusedLink opens nothing.
type refusedLink struct{ why string }

func (l *refusedLink) Error() string { return "the link " + l.why }

// errLinkEnded is said only of a link that was right.
var errLinkEnded = &refusedLink{"has expired; ask who gave it to you for another"}

var errNoLinks = errors.New("no links are signed here")

// sign makes the query of a link to the path below root, whose segments are separated by slashes.
func (k linkKey) sign(root cid.Cid, below string, account pins.Account, expires int64) url.Values {
	depth := 0
	if below != "" {
		depth = strings.Count(below, "/") + 1
	}
	mac := base64.RawURLEncoding.EncodeToString(k.mac(root, below, account, expires))
	return url.Values{
		linkExpires:   {strconv.FormatInt(expires, 10)},
		linkSignature: {fmt.Sprintf("%d.%d.%s", depth, account, mac)},
	}
}

// mac is over everything that a link says. No two links have the same text: numbers and CIDs have no newlines, and the
// path is the last.
func (k linkKey) mac(root cid.Cid, below string, account pins.Account, expires int64) []byte {
	h := hmac.New(sha256.New, k)
	fmt.Fprintf(h, "frostpin link 1\n%s\n%d\n%d\n%s", spec.Canonical(root), account, expires, below)
	return h.Sum(nil)
}

// check returns the account whose link it is, if it opens what is asked for.
func (k linkKey) check(q url.Values, root cid.Cid, below string, now time.Time) (pins.Account, error) {
	broken := &refusedLink{"is not one that was made here; it may have been cut short or changed"}
	expires, expiresErr := strconv.ParseInt(q.Get(linkExpires), 10, 64)
	parts := strings.Split(q.Get(linkSignature), ".")
	if len(k) == 0 || !root.Defined() || expiresErr != nil || len(parts) != 3 || len(q[linkExpires]) != 1 || len(q[linkSignature]) != 1 {
		return 0, broken
	}
	depth, depthErr := strconv.Atoi(parts[0])
	account, accountErr := strconv.ParseInt(parts[1], 10, 64)
	mac, macErr := base64.RawURLEncoding.Strict().DecodeString(parts[2])
	if depthErr != nil || accountErr != nil || macErr != nil {
		return 0, broken
	}
	var segments []string
	if below != "" {
		segments = strings.Split(below, "/")
	}
	if depth < 0 || depth > len(segments) {
		return 0, broken
	}
	opens := strings.Join(segments[:depth], "/")
	if !hmac.Equal(mac, k.mac(root, opens, pins.Account(account), expires)) { // in constant time
		return 0, broken
	}
	if now.Unix() >= expires {
		return 0, errLinkEnded
	}
	return pins.Account(account), nil
}

// CreateLink signs a link.
func (s ownAPI) CreateLink(c echo.Context) error {
	if s.gateway == nil || len(s.gateway.links) == 0 {
		return errNoLinks
	}
	root, below, life, err := readLink(c)
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	mine, err := s.gateway.cfg.Roots.KnownTo(ctx, account(c), spec.Canonical(root))
	switch {
	case err != nil:
		return fmt.Errorf("looking for a pin of the account: %w", err)
	case !mine:
		return errNotHeld
	}
	expires := s.gateway.cfg.Now().Unix() + life
	return s.respond(c, http.StatusCreated, v1.Link{
		Url:     s.gateway.linkURL(c.Request(), root, below) + "?" + s.gateway.links.sign(root, below, account(c), expires).Encode(),
		Expires: time.Unix(expires, 0).UTC(),
	})
}

// readLink reads what a link is wanted for: a root, a path without slashes at its ends, and seconds.
func readLink(c echo.Context) (root cid.Cid, below string, life int64, err error) {
	bad := func(field, problem string) (cid.Cid, string, int64, error) {
		return cid.Undef, "", 0, &spec.InvalidError{Field: field, Problem: problem}
	}
	var req v1.LinkRequest
	if err := readObject(c, &req, "cid, and maybe path and expires_in"); err != nil {
		return cid.Undef, "", 0, err
	}
	if root, err = cid.Decode(req.Cid); err != nil {
		return bad("cid", "is not a CID")
	}
	if req.Path != nil {
		if len(*req.Path) > maxLinkPath {
			return bad("path", "is too long")
		}
		// Resolved as the gateway will, so that the link is for what it will be used for.
		p, err := path.NewPath(gatewayPrefix + root.String() + "/" + *req.Path)
		if err != nil || len(p.Segments()) < 2 || p.Segments()[1] != root.String() {
			return bad("path", "is not one below the CID")
		}
		below = strings.Join(p.Segments()[2:], "/")
	}
	life = linkLife
	if req.ExpiresIn != nil {
		life = *req.ExpiresIn
	}
	if life < minLinkLife || life > maxLinkLife {
		return bad("expires_in", fmt.Sprintf("must be from %d to %d seconds", minLinkLife, maxLinkLife))
	}
	return root, below, life, nil
}

// linkURL is where a path is read, without a query.
func (g *gatewayHandler) linkURL(r *http.Request, root cid.Cid, below string) string {
	u := &url.URL{Path: gatewayPrefix + root.String()}
	if below != "" {
		u.Path += "/" + below
	}
	if g.cfg.URL != "" {
		return strings.TrimSuffix(g.cfg.URL, "/") + u.EscapedPath()
	}
	u.Scheme, u.Host = "http", r.Host
	if r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" {
		u.Scheme = "https"
	}
	return u.String()
}
