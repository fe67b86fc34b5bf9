package ingest

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/url"

	"github.com/ipfs/go-cid"
)

// readTar makes a DAG of a tar.
func (t *tree) readTar(body *bounded) (cid.Cid, error) {
	in := tar.NewReader(body)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return cid.Undef, body.or("is not a tar, or breaks off")
		}
		path, err := cleanPath(h.Name)
		if err != nil {
			return cid.Undef, err
		}
		switch h.Typeflag {
		case tar.TypeXGlobalHeader:
			continue
		case tar.TypeReg:
			err = t.addFile(path, in)
		case tar.TypeDir:
			err = t.addDir(path)
		case tar.TypeSymlink:
			err = t.addLink(path, h.Linkname)
		default:
			err = invalid(fmt.Sprintf("has %s, which is no file, directory or symbolic link", quote(path)))
		}
		if err != nil {
			return cid.Undef, t.reading(body, err, "is a tar that breaks off")
		}
	}
	if _, err := io.Copy(io.Discard, body); err != nil { // the rest of the last record
		return cid.Undef, err
	}
	return t.finish()
}

// reading tells an entry that could not be read from one that could not be stored.
func (t *tree) reading(body *bounded, err error, problem string) error {
	switch {
	case body.err != nil:
		return body.err
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, tar.ErrHeader):
		return invalid(problem)
	}
	return err
}

// The types of parts that are no files.
const (
	typeDirectory = "application/x-directory"
	typeSymlink   = "application/symlink"
)

// readForm makes a DAG of the files in a form: those of a browser, or a whole directory as Kubo's clients send it.
// Fields that are no files are passed over.
func (t *tree) readForm(body *bounded, boundary string) (cid.Cid, error) {
	in := multipart.NewReader(body, boundary)
	const broken = "is not a form of files, or breaks off"
	for {
		part, err := in.NextRawPart()
		if err == io.EOF { //nolint:errorlint // wrapped, it says that the end is missing
			break
		}
		if err != nil {
			return cid.Undef, body.or(broken)
		}
		_, params, err := mime.ParseMediaType(part.Header.Get("Content-Disposition"))
		name, isFile := params["filename"]
		if err != nil || !isFile {
			continue
		}
		if plain, err := url.QueryUnescape(name); err == nil {
			name = plain
		}
		path, err := cleanPath(name)
		if err != nil {
			return cid.Undef, err
		}
		kind, _, err := mime.ParseMediaType(part.Header.Get("Content-Type"))
		if err != nil {
			kind = ""
		}
		switch kind {
		case typeDirectory:
			err = t.addDir(path)
		case typeSymlink:
			var target []byte
			if target, err = io.ReadAll(io.LimitReader(part, maxTarget+1)); err == nil {
				err = t.addLink(path, string(target))
			}
		default:
			err = t.addFile(path, part)
		}
		if err != nil {
			return cid.Undef, t.reading(body, err, broken)
		}
	}
	if _, err := io.Copy(io.Discard, body); err != nil {
		return cid.Undef, err
	}
	return t.finish()
}
