package e2e_test

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// identity returns a CID that carries its data in itself: there is nothing to fetch.
func identity(data string) string {
	return sum([]byte(data), multihash.IDENTITY).String()
}

// unfindable returns the CID of data that nobody has.
func unfindable() string {
	return sum(noise(64), multihash.SHA2_256).String()
}

func sum(data []byte, hash uint64) cid.Cid {
	digest, err := multihash.Sum(data, hash, -1)
	if err != nil {
		panic(err) // both functions are built in
	}
	return cid.NewCidV1(cid.Raw, digest)
}

func noise(size int) []byte {
	data := make([]byte, size)
	_, _ = rand.Read(data) // never fails
	return data
}

// spelled returns a CID in version 0 or 1.
func spelled(t *testing.T, text string, version uint64) string {
	t.Helper()
	c, err := cid.Decode(text)
	if err != nil {
		t.Fatalf("decoding CID %q: %v", text, err)
	}
	if version == 0 {
		return cid.NewCidV0(c.Hash()).String()
	}
	return cid.NewCidV1(c.Type(), c.Hash()).String()
}

// directory makes a tree of files: some small ones in nested directories and one of many blocks.
func directory(t *testing.T, files int) string {
	t.Helper()
	root := t.TempDir()
	write := func(name string, data []byte) {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i := range files {
		write(fmt.Sprintf("d%d/%d/file-%d", i%7, i%3, i), noise(512))
	}
	write("large", noise(3<<20))
	return root
}
