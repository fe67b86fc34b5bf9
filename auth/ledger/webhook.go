package ledger

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

const (
	signatureAge = 5 * time.Minute // how far a signature's time may be from ours, either way
	minKey       = 16              // bytes of a key that is not guessed
	maxSignature = 1024            // bytes of a signature header
	maxEvent     = 64 << 10        // bytes of an event
	maxEventID   = 128
)

// Sign returns the signature of a body, as a payment provider's adapter sends it: "t=<Unix seconds>,v1=<hex>", where hex is
// the HMAC-SHA256 of "<Unix seconds>.<body>" under the key.
func Sign(key, body []byte, at time.Time) string {
	t := strconv.FormatInt(at.Unix(), 10)
	return "t=" + t + ",v1=" + hex.EncodeToString(mac(key, t, body))
}

func mac(key []byte, timestamp string, body []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(timestamp + "."))
	h.Write(body)
	return h.Sum(nil)
}

// VerifySignature checks that one of the keys signed the body within five minutes of now. While a key is being replaced
// the sender may give several v1 and the receiver several keys. Errors: ErrSignature, which does not tell what is wrong
// with it.
func VerifySignature(header string, body []byte, keys [][]byte, now time.Time) error {
	timestamp, given, ok := parseSignature(header)
	if !ok {
		return ErrSignature
	}
	valid := false
	for _, key := range keys {
		if len(key) < minKey {
			continue
		}
		want := mac(key, timestamp, body)
		for _, sum := range given {
			if hmac.Equal(want, sum) { // in constant time; which of several keys it was is no secret
				valid = true
			}
		}
	}
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if !valid || err != nil {
		return ErrSignature
	}
	// Compared as seconds: a duration cannot hold the distance to any time that text can name.
	limit := int64(signatureAge / time.Second)
	if seconds < now.Unix()-limit || seconds > now.Unix()+limit {
		return ErrSignature
	}
	return nil
}

// parseSignature divides "t=...,v1=...,v1=..." and passes over other names.
func parseSignature(header string) (timestamp string, sums [][]byte, ok bool) {
	if len(header) > maxSignature {
		return "", nil, false
	}
	for part := range strings.SplitSeq(header, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch name {
		case "t":
			if timestamp != "" {
				return "", nil, false
			}
			timestamp = value
		case "v1":
			sum, err := hex.DecodeString(value)
			if err != nil || len(sum) != sha256.Size {
				return "", nil, false
			}
			sums = append(sums, sum)
		}
	}
	return timestamp, sums, timestamp != "" && len(sums) > 0
}

// An Event says that an account has paid.
type Event struct {
	ID       string `json:"id"`       // the provider's; an event that comes again has the same one
	Account  string `json:"account"`  // the account's name
	Amount   string `json:"amount"`   // in decimal text: a JSON number would be a float
	Currency string `json:"currency"` // must be the one that credits are in
}

// ParseEvent reads an event. Fields it does not know are passed over. Errors: ErrInvalid.
func ParseEvent(body []byte) (Event, Amount, error) {
	if len(body) > maxEvent {
		return Event{}, 0, invalid("an event has at most %d bytes", maxEvent)
	}
	var e Event
	if err := json.Unmarshal(body, &e); err != nil {
		return Event{}, 0, invalid("the event is not a JSON object of texts: %v", err)
	}
	if e.ID == "" || len(e.ID) > maxEventID || strings.ContainsFunc(e.ID, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return Event{}, 0, invalid("an event's id has 1 to %d printable ASCII characters", maxEventID)
	}
	amount, err := ParseAmount(e.Amount)
	if err != nil {
		return Event{}, 0, fmt.Errorf("the event's amount: %w", err)
	}
	if amount <= 0 {
		return Event{}, 0, invalid("an event's amount is above zero: take money back with an adjustment")
	}
	return e, amount, nil
}

// A Webhook is where a payment provider's adapter reports payments.
type Webhook struct {
	Ledger   *Service
	Keys     [][]byte // any of them signs; at least 16 bytes each
	Currency string   // what a credit is, such as "EUR"
	// Account returns an account's id by its name. Errors: ErrNotFound.
	Account func(ctx context.Context, name string) (int64, error)
}

// Receive credits the account of a signed event, once however often it comes: fresh is false when it was credited
// before. Errors: ErrSignature; ErrInvalid for what will never be accepted; ErrNotFound for an account that does not exist;
// ErrKeyReused for an id that came with another account or amount. Any other error may be gone the next time.
func (w Webhook) Receive(ctx context.Context, signature string, body []byte) (e Entry, fresh bool, err error) {
	if err := VerifySignature(signature, body, w.Keys, w.Ledger.now()); err != nil {
		return Entry{}, false, err
	}
	event, amount, err := ParseEvent(body)
	if err != nil {
		return Entry{}, false, err
	}
	if event.Currency != w.Currency {
		return Entry{}, false, invalid("credits are in %s, the event is in %.20q", w.Currency, event.Currency)
	}
	account, err := w.Account(ctx, event.Account)
	if err != nil {
		return Entry{}, false, fmt.Errorf("looking up account %.64q: %w", event.Account, err)
	}
	return w.Ledger.Credit(ctx, account, amount, "payment/"+event.ID, event.ID)
}
