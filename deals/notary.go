package deals

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/multiformats/go-multibase"
	"github.com/multiformats/go-varint"
)

// A Notary signs receipts with the service's key. All methods may be called concurrently.
type Notary struct {
	service string
	private ed25519.PrivateKey
	now     func() time.Time
}

// NewNotary returns one that signs as service, which is how people know it, with this key.
func NewNotary(service string, key ed25519.PrivateKey, now func() time.Time) *Notary {
	return &Notary{service: service, private: key, now: now}
}

// OpenNotaryKey reads the key from a file, which only its owner can read, and makes it at the first use.
func OpenNotaryKey(path string) (ed25519.PrivateKey, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeKey(path); err != nil {
			return nil, fmt.Errorf("making the key of receipts: %w", err)
		}
		content, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the key of receipts: %w", err)
	}
	block, _ := pem.Decode(content)
	if block == nil || block.Type != pemType {
		return nil, fmt.Errorf("reading the key of receipts: %s holds no %s in PEM form", path, strings.ToLower(pemType))
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading the key of receipts: %w", err)
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("reading the key of receipts: %s holds a %T, not an Ed25519 key", path, key)
	}
	return private, nil
}

const pemType = "PRIVATE KEY"

// makeKey writes a new key under path, unless somebody else has done so meanwhile. A crash leaves all of it or nothing.
func makeKey(path string) (err error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // only its owner can read it
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(file.Name())) }()
	err = errors.Join(pem.Encode(file, &pem.Block{Type: pemType, Bytes: der}), file.Sync(), file.Close())
	if err != nil {
		return err
	}
	if err := os.Link(file.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// ed25519Code is the multicodec of an Ed25519 public key.
const ed25519Code = 0xed

// Key is the public key as a did:key: what receipts name, and what whoever checks them may compare.
func (n *Notary) Key() string {
	public, _ := n.private.Public().(ed25519.PublicKey)
	text, err := multibase.Encode(multibase.Base58BTC, append(varint.ToUvarint(ed25519Code), public...))
	if err != nil {
		panic(err) // base58btc is known
	}
	return didKey + text
}

const didKey = "did:key:"

func parseKey(did string) (ed25519.PublicKey, error) {
	wrong := fmt.Errorf("%q is not the did:key of an Ed25519 key", did)
	text, ok := strings.CutPrefix(did, didKey)
	if !ok {
		return nil, wrong
	}
	encoding, raw, err := multibase.Decode(text)
	if err != nil || encoding != multibase.Base58BTC {
		return nil, wrong
	}
	code, n, err := varint.FromUvarint(raw)
	if err != nil || code != ed25519Code || len(raw)-n != ed25519.PublicKeySize {
		return nil, wrong
	}
	return raw[n:], nil
}

// Sign completes a receipt: who issues it, when, and the signature over all of that.
func (n *Notary) Sign(r Receipt) (Receipt, error) {
	r.Version, r.Service, r.Key, r.Signature = receiptVersion, n.service, n.Key(), ""
	r.IssuedAt = n.now().UTC().Format(time.RFC3339)
	signed, err := canonicalJSON(r)
	if err != nil {
		return Receipt{}, fmt.Errorf("signing a receipt: %w", err)
	}
	r.Signature = base64.StdEncoding.EncodeToString(ed25519.Sign(n.private, signed))
	return r, nil
}
