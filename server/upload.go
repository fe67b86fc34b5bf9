package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/labstack/echo/v4"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/ingest"
	"github.com/frostpin/frostpin/server/v1"
	"github.com/frostpin/frostpin/spec"
)

// Uploads makes pins of bodies. Errors: *spec.InvalidError, *ingest.LargeError, those of the body, and those of Pins.
type Uploads interface {
	Upload(ctx context.Context, u ingest.Upload) (made []pins.Pin, fresh bool, err error)
}

const (
	uploadSlots = 16 // where Config says nothing
	uploadShare = 4  // an account may have one in so many of them, lest it keeps all others out with slow bodies
	uploadRoute = "/upload"
	maxKey      = 255
)

var (
	errNoUploads = errors.New("uploads are not taken here")
	errStalled   = errors.New("the upload stalled")
)

// Upload pins what the body holds.
func (s ownAPI) Upload(c echo.Context, params v1.UploadParams) error {
	if s.cfg.Uploads == nil {
		return errNoUploads
	}
	u, err := s.upload(c, params)
	if err != nil {
		return err
	}
	most := uploadBytes(caller(c).Limits)
	if length := c.Request().ContentLength; most > 0 && length > most {
		return tooLong(most)
	}
	var decided pins.Decision
	if caller(c).Limits.Bills() {
		if decided, err = s.pins.Decide(c.Request().Context(), u.Choice, u.Meta); err != nil {
			return err
		}
	}
	if err := s.roomFor(c, c.Request().ContentLength, decided.Copies); err != nil {
		return err
	}
	// Asked for first: an answer that cannot be given must not leave a pin behind.
	delegates, err := api(s).delegates(c)
	if err != nil {
		return err
	}
	end, ok := s.uploads.enter(caller(c).Account)
	if !ok {
		return errBusy
	}
	defer end()
	select {
	case s.uploading <- struct{}{}:
		defer func() { <-s.uploading }()
	default:
		return errBusy
	}
	u.Admit = func(dags []pins.Sized) error {
		bytes := int64(0)
		for _, dag := range dags {
			bytes += dag.Bytes
		}
		return s.fits(c, quotaOf(caller(c).Limits), int64(len(dags)), dags, "", func() error {
			// An inlined root has no bytes, which would mean that nobody knows how many.
			return s.afford(c, cid.Undef, max(bytes, 1), decided.Copies)
		})
	}
	if u.Body == nil {
		u.Body = newPatient(c.Response().Writer, c.Request().Body, stallTime, leastUpload)
	}
	u.Body = &standing{u.Body, s.stillAdds(c), time.Now().Add(recheck)}
	if most > 0 {
		u.Body = &shortened{u.Body, most, most}
	}
	made, fresh, err := s.cfg.Uploads.Upload(c.Request().Context(), u)
	if err != nil {
		// What the client goes on to send is nobody's business any more.
		c.Response().Header().Set("Connection", "close")
		return err
	}
	code := http.StatusAccepted
	if !fresh {
		code = http.StatusOK
	}
	body := []byte(`{"pins":[`)
	for i := range made {
		if i > 0 {
			body = append(body, ',')
		}
		status := render(&made[i], delegates)
		body = spec.AppendPinStatus(body, &status)
	}
	return s.send(c, code, append(body, ']', '}'))
}

// roomFor tells what is certain of an upload before it is read. A body may be of a DAG that is held for the account
// already, which brings nothing, unless it is longer than all that the plan allows.
func (s ownAPI) roomFor(c echo.Context, length int64, copies int) error {
	if err := s.room(c, 1); err != nil {
		return err
	}
	if quota := quotaOf(caller(c).Limits); quota.Bytes > 0 && length > quota.Bytes {
		return &pins.QuotaError{Problem: fmt.Sprintf("the upload has %d bytes, and this account's plan allows %d", length, quota.Bytes)}
	}
	if !s.pays(c) {
		return nil
	}
	more, err := s.weigh(c, cid.Undef, length, copies)
	if err == nil {
		_, err = s.covers(c, more, nil, "") // nothing gives way before it is here
	}
	return err
}

// upload reads everything but what is uploaded.
func (s ownAPI) upload(c echo.Context, params v1.UploadParams) (ingest.Upload, error) {
	u := ingest.Upload{Account: account(c), Choice: choiceOf(c), Name: params.Name}
	var err error
	if u.Meta, err = metaPairs(c.Request().URL.RawQuery); err != nil {
		return u, err
	}
	if u.Key, err = idempotencyKey(params.IdempotencyKey); err != nil {
		return u, err
	}
	if params.Policy != nil {
		found, err := s.pins.HasPolicy(c.Request().Context(), *params.Policy)
		if err != nil {
			return u, fmt.Errorf("looking up a policy: %w", err)
		}
		if !found {
			return u, errNoPolicy
		}
		u.Choice.Path = *params.Policy
	}
	kind, details := mediaType(c.Request().Header.Get("Content-Type"))
	if kind == "multipart/mixed" {
		inner, err := labelled(c, &u, details["boundary"])
		if err != nil {
			return u, err
		}
		kind, details = mediaType(inner)
	}
	switch kind {
	case "application/vnd.ipld.car":
		u.Format = ingest.CAR
	case "application/x-tar":
		u.Format = ingest.Tar
	case "multipart/form-data":
		u.Format, u.Boundary = ingest.Multipart, details["boundary"]
		if u.Boundary == "" {
			return u, &spec.InvalidError{Field: "Content-Type", Problem: "does not name the boundary of the form"}
		}
	default:
		if u.Name == nil {
			u.Name = params.Filename
		}
	}
	return u, nil
}

// mediaType is what a Content-Type says; nothing for one that nobody knows.
func mediaType(header string) (kind string, details map[string]string) {
	kind, details, err := mime.ParseMediaType(header)
	if err != nil {
		return "", nil
	}
	return kind, details
}

// idempotencyKey is the name that a client gives a request so that it can be repeated; empty when it gives none.
func idempotencyKey(header *string) (string, error) {
	if header == nil {
		return "", nil
	}
	if key := *header; key != "" && len(key) <= maxKey && !strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }) {
		return key, nil
	}
	return "", &spec.InvalidError{Field: "Idempotency-Key", Problem: fmt.Sprintf("is not made of 1 to %d printable ASCII characters", maxKey)}
}

// standing is a body that ends when the account of its sender may no longer add anything.
type standing struct {
	body   io.Reader
	may    func() error
	lookAt time.Time
}

func (s *standing) Read(b []byte) (int, error) {
	n, err := s.body.Read(b)
	if now := time.Now(); now.After(s.lookAt) {
		s.lookAt = now.Add(recheck)
		if err := s.may(); err != nil {
			return 0, err
		}
	}
	return n, err
}

// stillAdds asks whether the caller's account may still add something. It says no only when that is known.
func (s ownAPI) stillAdds(c echo.Context) func() error {
	return func() error {
		state, err := s.accounts.AccountState(c.Request().Context(), caller(c).Account)
		if errors.Is(err, auth.ErrNotFound) || err == nil && state != auth.Active {
			return &refused{spec.ReasonAccountSuspended, "this account was suspended or closed while the upload ran"}
		}
		return nil //nolint:nilerr // as said above
	}
}

// shortened is a body that fails when it is longer than a plan allows.
type shortened struct {
	body       io.Reader
	left, most int64
}

func (s *shortened) Read(b []byte) (int, error) {
	n, err := s.body.Read(b)
	if s.left -= int64(n); s.left < 0 {
		return 0, tooLong(s.most)
	}
	return n, err
}

// uploadBytes is the most that an upload may bring; 0 for no bound.
func uploadBytes(l *auth.Limits) int64 {
	if l == nil {
		return 0
	}
	return l.UploadBytes
}

func tooLong(most int64) error {
	return &ingest.LargeError{Problem: fmt.Sprintf("this account's plan allows uploads of at most %d bytes", most)}
}

// metaPairs reads meta[KEY]=VALUE from a query. What meta may be, the pin says.
func metaPairs(raw string) (map[string]string, error) {
	query, err := url.ParseQuery(raw)
	if err != nil {
		return nil, &spec.InvalidError{Field: "query", Problem: "is malformed"}
	}
	var meta map[string]string
	for name, values := range query {
		key, ok := strings.CutPrefix(name, "meta[")
		if key, closed := strings.CutSuffix(key, "]"); ok && closed {
			if len(values) > 1 {
				return nil, &spec.InvalidError{Field: "meta", Problem: "has a key more than once"}
			}
			if meta == nil {
				meta = make(map[string]string)
			}
			meta[key] = values[0]
		} else if ok || name == "meta" {
			return nil, &spec.InvalidError{Field: "meta", Problem: "must be given in pairs like meta[key]=value"}
		}
	}
	return meta, nil
}
