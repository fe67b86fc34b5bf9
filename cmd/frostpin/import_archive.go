package main

import (
	"archive/tar"
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// Bounds of what an export from somewhere may have.
const (
	maxEntries = 10_000_000
	maxLine    = 4 << 20 // bytes in a line of the manifest
)

// An archive is an export that is read. Open fails with fs.ErrNotExist for what is not in it, and its readers can be
// closed and know their size.
type archive interface {
	Open(name string) (io.ReadCloser, int64, error)
	Close() error
}

// openArchive opens a directory or a tar file.
func openArchive(name string) (archive, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		root, err := os.OpenRoot(name) // links in it lead nowhere else
		if err != nil {
			return nil, err
		}
		return dirArchive{root}, nil
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	a, err := indexTar(file)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reading %s: %w", name, err), file.Close())
	}
	a.close = file.Close
	return a, nil
}

type dirArchive struct{ root *os.Root }

// Open implements archive.
func (d dirArchive) Open(name string) (io.ReadCloser, int64, error) {
	file, err := d.root.Open(filepath.FromSlash(name))
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file", name)
	}
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, info.Size(), nil
}

// Close implements archive.
func (d dirArchive) Close() error { return d.root.Close() }

// A tarArchive knows where in a tar file what is. Nothing is unpacked.
type tarArchive struct {
	file    io.ReaderAt
	entries map[string]section
	close   func() error
}

type section struct{ offset, size int64 }

// A seekable is a file.
type seekable interface {
	io.ReadSeeker
	io.ReaderAt
}

func indexTar(file seekable) (*tarArchive, error) {
	a := &tarArchive{file: file, entries: map[string]section{}, close: func() error { return nil }}
	reader := tar.NewReader(file)
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return a, nil
		}
		if err != nil {
			return nil, err
		}
		name := path.Clean(header.Name)
		if !filepath.IsLocal(header.Name) || strings.Contains(header.Name, `\`) {
			return nil, fmt.Errorf("it has %q, which leads out of it", header.Name)
		}
		if header.Typeflag == tar.TypeDir {
			continue
		}
		if header.Typeflag != tar.TypeReg || sparse(header) {
			return nil, fmt.Errorf("%q in it is no plain file", header.Name)
		}
		if !known(name) {
			continue // somebody's note
		}
		if _, twice := a.entries[name]; twice {
			return nil, fmt.Errorf("it has %q twice", name)
		}
		if len(a.entries) == maxEntries {
			return nil, fmt.Errorf("it has more than %d files", maxEntries)
		}
		offset, err := file.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		a.entries[name] = section{offset, header.Size}
	}
}

// sparse tells whether the data of a file is not where the file is.
func sparse(header *tar.Header) bool {
	for key := range header.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// Open implements archive.
func (a *tarArchive) Open(name string) (io.ReadCloser, int64, error) {
	s, ok := a.entries[name]
	if !ok {
		return nil, 0, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return io.NopCloser(io.NewSectionReader(a.file, s.offset, s.size)), s.size, nil
}

// Close implements archive.
func (a *tarArchive) Close() error { return a.close() }

// known tells whether a name is one that exports have.
func known(name string) bool {
	if name == manifestFile || name == sumsFile {
		return true
	}
	dir, file, _ := strings.Cut(name, "/")
	return (dir == "cars" && strings.HasSuffix(file, ".car") || dir == "receipts" && strings.HasSuffix(file, ".json")) && safeFile.MatchString(file)
}

// safeFile is safeName with an ending.
var safeFile = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]{0,250}$`)

// A sumLine is a line of the sums.
type sumLine struct{ sum, name string }

var sumPattern = regexp.MustCompile(`^([0-9a-f]{64}) [ *](\S+)$`)

// readSums yields the lines of sums.
func readSums(r io.Reader) iter.Seq2[sumLine, error] {
	return func(yield func(sumLine, error) bool) {
		lines := bufio.NewScanner(r)
		lines.Buffer(nil, 4096)
		for n := 0; lines.Scan(); n++ {
			match := sumPattern.FindStringSubmatch(lines.Text())
			switch {
			case match == nil || !known(match[2]) || match[2] == sumsFile:
				yield(sumLine{}, fmt.Errorf("line %d of %s is not the sum of a file of an export", n+1, sumsFile))
				return
			case n == maxEntries:
				yield(sumLine{}, fmt.Errorf("%s has more than %d lines", sumsFile, maxEntries))
				return
			}
			if !yield(sumLine{match[1], match[2]}, nil) {
				return
			}
		}
		if err := lines.Err(); err != nil {
			yield(sumLine{}, fmt.Errorf("reading %s: %w", sumsFile, err))
		}
	}
}

// readManifest yields the pins of a manifest.
func readManifest(r io.Reader) iter.Seq2[pinned, error] {
	return func(yield func(pinned, error) bool) {
		fail := func(format string, args ...any) { yield(pinned{}, fmt.Errorf(manifestFile+": "+format, args...)) }
		lines := bufio.NewScanner(r)
		lines.Buffer(nil, maxLine)
		header := manifestHeader{}
		if lines.Scan() {
			if err := json.Unmarshal(lines.Bytes(), &header); err != nil {
				fail("the first line: %w", err)
				return
			}
		}
		switch {
		case lines.Err() != nil:
			fail("%w", lines.Err())
			return
		case header.Version == 0:
			fail("it does not begin as the manifest of an export does")
			return
		case header.Version != exportVersion:
			fail("it is of version %d, and this program reads version %d", header.Version, exportVersion)
			return
		}
		for n := 2; lines.Scan(); n++ {
			var row pinned
			if err := json.Unmarshal(lines.Bytes(), &row); err != nil {
				fail("line %d: %w", n, err)
				return
			}
			if !safeName.MatchString(row.ID) || row.Pin.CID == "" {
				fail("line %d is no pin with a requestid and a CID", n)
				return
			}
			if !yield(row, nil) {
				return
			}
		}
		if err := lines.Err(); err != nil {
			fail("%w", err)
		}
	}
}
