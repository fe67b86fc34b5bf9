package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

// parallel is how many requests a command has under way at once.
const parallel = 8

// An api is a server as its users see it: the Pinning Service API at endpoint, and, where it is a Frostpin, what else
// is below origin.
type api struct {
	endpoint string // such as https://example.org/psa
	origin   string // such as https://example.org
	token    string
	account  string // whose pins an administrator reads; empty: those of the token's account
	client   *http.Client
	pause    func(ctx context.Context, d time.Duration) error // waits before a request is repeated

	mu      sync.Mutex
	unnamed map[same]pinned // pins without a name that were found among many
}

// serverFlags name the server that a command talks to.
type serverFlags struct{ server, token string }

func (f *serverFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.server, "server", "", "The server, such as https://pins.example.org (default: $FROSTPIN_SERVER, else the one that runs on data-dir)")
	c.Flags().StringVar(&f.token, "token", "", "An access token (default: $FROSTPIN_TOKEN)")
}

// Variables that name the server where no flag does.
const (
	serverVariable = "FROSTPIN_SERVER"
	tokenVariable  = "FROSTPIN_TOKEN" //nolint:gosec // the name of a variable, not a token
)

func (p *program) variable(name string) string {
	value := ""
	for _, pair := range p.environ {
		if v, ok := strings.CutPrefix(pair, name+"="); ok {
			value = v // the last one counts, as for every program
		}
	}
	return value
}

// connect finds the server that the flags, the environment or the data directory name.
func (p *program) connect(c *cobra.Command, f serverFlags) (*api, error) {
	if f.token == "" {
		f.token = p.variable(tokenVariable)
	}
	if f.token == "" {
		return nil, errors.New("there is no token: set " + tokenVariable + ", or name one (frostpin token create makes one)")
	}
	if f.server == "" {
		f.server = p.variable(serverVariable)
	}
	if f.server != "" {
		a, err := newAPI(f.server, f.token, operatorsClient)
		if err != nil {
			return nil, fmt.Errorf("the server: %w", err)
		}
		return a, nil
	}
	config, err := p.settings(c)
	if err != nil {
		return nil, err
	}
	here, err := running(config.DataDir)
	if err != nil {
		return nil, err
	}
	if here == nil {
		return nil, fmt.Errorf("no server runs on %s: start one, or name one with --server", config.DataDir)
	}
	origin, expect, err := config.itself(here.Listening)
	if err != nil {
		return nil, err
	}
	a, err := newAPI(origin, f.token, func(*url.URL) *http.Client { return plainClient(expect) })
	if err == nil {
		a.endpoint = origin + "/" + strings.Trim(config.BasePath, "/")
		a.endpoint = strings.TrimRight(a.endpoint, "/")
	}
	return a, err
}

// newAPI takes the address of a Frostpin, or of its Pinning Service API.
func newAPI(address, token string, client func(*url.URL) *http.Client) (*api, error) {
	base, err := parseBase(address)
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(token, "\r\n") {
		return nil, errors.New("the token is more than one line")
	}
	a := &api{token: token, client: client(base), pause: pause, unnamed: map[same]pinned{}}
	root := url.URL{Scheme: base.Scheme, Host: base.Host}
	switch prefix, isEndpoint := strings.CutSuffix(base.Path, "/psa"); {
	case isEndpoint:
		root.Path = prefix
		a.endpoint = base.String()
	case base.Path == "":
		a.endpoint = base.String() + "/psa"
	default: // an API somewhere else; what else there is lives at the root
		a.endpoint = base.String()
	}
	a.origin = root.String()
	return a, nil
}

// newService takes the endpoint of somebody else's Pinning Service API, as users hand it to their nodes.
func newService(address, token string) (*api, error) {
	base, err := parseBase(address)
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(token, "\r\n") {
		return nil, errors.New("the token is more than one line")
	}
	base.Path = strings.TrimSuffix(base.Path, "/pins")
	return &api{endpoint: base.String(), token: token, client: strangersClient(base), pause: pause, unnamed: map[same]pinned{}}, nil
}

// An answerError is an answer that is not what was asked for.
type answerError struct {
	code   int
	word   string // what the service calls it, such as QUOTA_EXCEEDED
	reason string
	after  time.Duration // what Retry-After says, 0: nothing
}

func (e *answerError) Error() string {
	text := fmt.Sprintf("it answers %d %s", e.code, http.StatusText(e.code))
	if e.reason != "" {
		text += ": " + e.reason
	}
	return text
}

// answered tells whether an error is an answer with one of the codes.
func answered(err error, codes ...int) bool {
	var e *answerError
	return errors.As(err, &e) && slices.Contains(codes, e.code)
}

// passing tells whether a failure may be gone after a while.
func passing(err error) bool {
	if _, ok := errors.AsType[*sourceError](err); ok {
		return false
	}
	if _, ok := errors.AsType[*answerError](err); ok {
		return answered(err, http.StatusTooManyRequests, http.StatusRequestTimeout, http.StatusInternalServerError,
			http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout)
	}
	var n net.Error
	return errors.As(err, &n) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, errCut)
}

// errCut is an answer that ended before its end.
var errCut = errors.New("the answer was cut off")

// errTooMuch is an answer that is longer than it may be.
var errTooMuch = errors.New("the answer is too long")

// A call is one request. Its body can be sent again.
type call struct {
	method, url string
	header      http.Header
	body        []byte
	limit       int64 // bytes of the answer; 0: smallAnswer
	size        int64 // bytes of a body that is streamed; 0: unknown
}

const (
	smallAnswer = 4 << 20
	maxTries    = 6
	firstPause  = 500 * time.Millisecond
	longPause   = 30 * time.Second
	longestWait = 5 * time.Minute  // for a Retry-After
	longestTold = 15 * time.Minute // in all, for one call, as the service says
)

// fetch makes a call and returns the body of the answer, which is 2xx. It tries again what may pass; before it does,
// settled, unless nil, may find that the call has been carried out although its answer got lost.
func (a *api) fetch(ctx context.Context, r call, settled func(context.Context) (bool, error)) ([]byte, error) {
	var body []byte
	err := a.retry(ctx, func(ctx context.Context) error {
		var err error
		body, err = a.once(ctx, r)
		return err
	}, settled)
	return body, err
}

func (a *api) retry(ctx context.Context, try func(context.Context) error, settled func(context.Context) (bool, error)) error {
	var told time.Duration
	for n := 1; ; n++ {
		err := try(ctx)
		if err == nil || ctx.Err() != nil || !passing(err) {
			return err
		}
		wait, said := delay(n, err)
		if said && told < longestTold { // a service that says when to come back does not fail
			told += wait
			n--
		} else if n == maxTries {
			return err
		}
		if err := a.pause(ctx, wait); err != nil {
			return err
		}
		if settled == nil {
			continue
		}
		if done, err := settled(ctx); done || err != nil {
			return err
		}
	}
}

// delay is how long to wait after the nth failure: as long as the service has said and up to half as long again, so that
// several who were told the same come apart; else longer each time.
func delay(n int, err error) (d time.Duration, said bool) {
	var e *answerError
	if errors.As(err, &e) && e.after > 0 {
		d = min(e.after, longestWait)
		return d + rand.N(d/2+1), true
	}
	d = min(firstPause<<(n-1), longPause)
	return d/2 + rand.N(d/2+1), false
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// once makes a call once.
func (a *api) once(ctx context.Context, r call) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	response, err := a.send(ctx, r, bytes.NewReader(r.body))
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	limit := r.limit
	if limit == 0 {
		limit = smallAnswer
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if int64(len(body)) > limit {
		return nil, errTooMuch
	}
	return body, nil
}

// send returns an answer that is 2xx, whose body the caller closes.
func (a *api) send(ctx context.Context, r call, body io.Reader) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, r.method, r.url, body)
	if err != nil {
		return nil, err
	}
	if r.size > 0 {
		request.ContentLength = r.size
	}
	maps.Copy(request.Header, r.header)
	request.Header.Set("Authorization", "Bearer "+a.token)
	request.Header.Set("User-Agent", "frostpin")
	if a.account != "" {
		request.Header.Set("X-Frostpin-Account", a.account)
	}
	response, err := a.client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode >= 200 && response.StatusCode < 300 {
		return response, nil
	}
	defer response.Body.Close()
	return nil, newAnswerError(response)
}

func newAnswerError(response *http.Response) error {
	e := &answerError{code: response.StatusCode, after: retryAfter(response.Header.Get("Retry-After"))}
	body, _ := io.ReadAll(io.LimitReader(response.Body, 64<<10)) // it only explains
	var failure struct {
		Error struct {
			Reason  string `json:"reason"`
			Details string `json:"details"`
		} `json:"error"`
	}
	if json.Unmarshal(body, &failure) == nil && failure.Error.Reason != "" {
		e.word, e.reason = failure.Error.Reason, failure.Error.Reason
		if failure.Error.Details != "" {
			e.reason += ": " + failure.Error.Details
		}
	}
	if len(e.reason) > 500 {
		e.reason = strings.ToValidUTF8(e.reason[:500], "")
	}
	if location := response.Header.Get("Location"); e.reason == "" && location != "" {
		e.reason = "it sends us elsewhere; name the address itself"
	}
	return e
}

func retryAfter(text string) time.Duration {
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

// carType is the media type of CARs.
const carType = "application/vnd.ipld.car"
