package piece

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sort"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-varint"
)

// A layout file says what stands where in a CAR:
//
//	"frostpin car layout 1\n"
//	sections, in groups of 256:  length of the data, length of the CID, the CID (lengths are varints)
//	for each group:              offset in the CAR, offset in this file, CRC-32C of the group   (8, 8, 4 bytes)
//	the root
//	length of the CAR, number of groups, length of the root, CRC-32C of all after the groups    (8, 4, 4, 4 bytes)
//
// Numbers are big endian. The end is read first.
const (
	layoutMagic = "frostpin car layout 1\n"
	groupSize   = 256 // sections
	entrySize   = 20
	tailSize    = 20
	maxIndex    = 1 << 28 // bytes; more is damage: 3 billion sections
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errDamaged says that a layout is not what was written.
var errDamaged = errors.New("the layout is damaged")

// carHeader returns the first bytes of a CARv1 with this root: DAG-CBOR of {roots: [root], version: 1}.
func carHeader(root cid.Cid) []byte {
	link := append([]byte{0}, root.Bytes()...)
	body := []byte("\xa2\x65roots\x81\xd8\x2a")
	switch n := len(link); {
	case n < 24:
		body = append(body, 0x40|byte(n))
	case n < 1<<8:
		body = append(body, 0x58, byte(n))
	default:
		body = binary.BigEndian.AppendUint16(append(body, 0x59), uint16(n))
	}
	body = append(append(body, link...), "\x67version\x01"...)
	return append(varint.ToUvarint(uint64(len(body))), body...)
}

// sectionHead returns what stands before the data of a section.
func sectionHead(into []byte, c cid.Cid, data int64) []byte {
	into = binary.AppendUvarint(into, uint64(c.ByteLen())+uint64(data))
	return append(into, c.KeyString()...)
}

// A group is a run of sections: where it starts in the CAR and in the layout.
type group struct {
	car, file int64
	sum       uint32
}

// A layoutWriter writes a layout while its CAR is made.
type layoutWriter struct {
	w     *bufio.Writer
	root  cid.Cid
	index []byte
	buf   []byte // of the group
	in    int    // sections in the group
	start int64  // of the group in the CAR
	file  int64
	car   int64 // length of the CAR so far
}

func newLayoutWriter(w io.Writer, root cid.Cid) (*layoutWriter, error) {
	l := &layoutWriter{w: bufio.NewWriterSize(w, 64<<10), root: root, file: int64(len(layoutMagic))}
	l.car = int64(len(carHeader(root)))
	l.start = l.car
	_, err := l.w.WriteString(layoutMagic)
	return l, err
}

// add appends a section: c and so many bytes of data after a head of head bytes.
func (l *layoutWriter) add(c cid.Cid, head int, data int64) error {
	l.buf = binary.AppendUvarint(l.buf, uint64(data))
	l.buf = binary.AppendUvarint(l.buf, uint64(c.ByteLen()))
	l.buf = append(l.buf, c.KeyString()...)
	l.car += int64(head) + data
	if l.in++; l.in < groupSize {
		return nil
	}
	return l.flush()
}

func (l *layoutWriter) flush() error {
	if l.in == 0 {
		return nil
	}
	l.index = binary.BigEndian.AppendUint64(l.index, uint64(l.start))
	l.index = binary.BigEndian.AppendUint64(l.index, uint64(l.file))
	l.index = binary.BigEndian.AppendUint32(l.index, crc32.Checksum(l.buf, castagnoli))
	_, err := l.w.Write(l.buf)
	l.file += int64(len(l.buf))
	l.buf, l.in, l.start = l.buf[:0], 0, l.car
	return err
}

// finish writes the end.
func (l *layoutWriter) finish() error {
	if err := l.flush(); err != nil {
		return err
	}
	end := append(l.index, l.root.Bytes()...)
	groups := len(l.index) / entrySize
	end = binary.BigEndian.AppendUint64(end, uint64(l.car))
	end = binary.BigEndian.AppendUint32(end, uint32(groups))
	end = binary.BigEndian.AppendUint32(end, uint32(l.root.ByteLen()))
	end = binary.BigEndian.AppendUint32(end, crc32.Checksum(end, castagnoli))
	if _, err := l.w.Write(end); err != nil {
		return err
	}
	return l.w.Flush()
}

// A layout answers where things stand in a CAR. It may be used concurrently.
type layout struct {
	file   io.ReaderAt
	root   cid.Cid
	header []byte // of the CAR
	car    int64  // length of the CAR
	groups []group
	end    int64 // of the last group in the file
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %w", errDamaged, fmt.Errorf(format, args...))
}

// readLayout reads the end of a layout file of so many bytes.
func readLayout(file io.ReaderAt, size int64, root cid.Cid) (*layout, error) {
	tail := make([]byte, tailSize)
	if size < int64(len(layoutMagic))+tailSize {
		return nil, damaged("it has %d bytes", size)
	}
	if _, err := file.ReadAt(tail, size-tailSize); err != nil {
		return nil, fmt.Errorf("reading the layout of %s: %w", root, err)
	}
	l := &layout{file: file, root: root, header: carHeader(root), car: int64(binary.BigEndian.Uint64(tail))}
	groups := int64(binary.BigEndian.Uint32(tail[8:]))
	rootLen := int64(binary.BigEndian.Uint32(tail[12:]))
	l.end = size - tailSize - rootLen - groups*entrySize
	if l.end < int64(len(layoutMagic)) || size-l.end > maxIndex {
		return nil, damaged("its index has %d groups", groups)
	}
	index := make([]byte, size-l.end)
	if _, err := file.ReadAt(index, l.end); err != nil {
		return nil, fmt.Errorf("reading the layout of %s: %w", root, err)
	}
	if crc32.Checksum(index[:len(index)-4], castagnoli) != binary.BigEndian.Uint32(tail[16:]) {
		return nil, damaged("its index has another checksum")
	}
	if !bytes.Equal(index[groups*entrySize:groups*entrySize+rootLen], root.Bytes()) {
		return nil, damaged("it is that of another root")
	}
	l.groups = make([]group, groups)
	for i := range l.groups {
		e := index[i*entrySize:]
		l.groups[i] = group{
			car: int64(binary.BigEndian.Uint64(e)), file: int64(binary.BigEndian.Uint64(e[8:])), sum: binary.BigEndian.Uint32(e[16:]),
		}
	}
	return l, nil
}

// A section is one block in a CAR.
type section struct {
	cid   cid.Cid
	start int64 // of its head in the CAR
	data  int64 // bytes of its data
}

// sections calls yield for the sections of the CAR, from the one that covers the byte at off to the last, until yield
// returns an error.
func (l *layout) sections(off int64, yield func(section) error) error {
	first := sort.Search(len(l.groups), func(i int) bool { return l.groups[i].car > off }) - 1
	for i := max(first, 0); i < len(l.groups); i++ {
		in, err := l.group(i)
		if err != nil {
			return err
		}
		for _, s := range in {
			if s.end() <= off {
				continue
			}
			if err := yield(s); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s section) end() int64 {
	inner := int64(s.cid.ByteLen()) + s.data
	return s.start + int64(varint.UvarintSize(uint64(inner))) + inner
}

// group reads one group of sections.
func (l *layout) group(i int) ([]section, error) {
	g := l.groups[i]
	until, car := l.end, l.car
	if i+1 < len(l.groups) {
		until, car = l.groups[i+1].file, l.groups[i+1].car
	}
	if g.file < 0 || until < g.file || until-g.file > maxIndex {
		return nil, damaged("group %d has no place", i)
	}
	buf := make([]byte, until-g.file)
	if _, err := l.file.ReadAt(buf, g.file); err != nil {
		return nil, fmt.Errorf("reading the layout of %s: %w", l.root, err)
	}
	if crc32.Checksum(buf, castagnoli) != g.sum {
		return nil, damaged("group %d has another checksum", i)
	}
	var out []section
	at := g.car
	for len(buf) > 0 {
		data, n := binary.Uvarint(buf)
		size, m := binary.Uvarint(buf[max(n, 0):])
		if n <= 0 || m <= 0 || uint64(len(buf)-n-m) < size {
			return nil, damaged("group %d ends within a section", i)
		}
		c, err := cid.Cast(buf[n+m : n+m+int(size)])
		if err != nil {
			return nil, damaged("group %d holds no CID: %w", i, err)
		}
		buf = buf[n+m+int(size):]
		s := section{cid: c, start: at, data: int64(data)}
		out = append(out, s)
		at = s.end()
	}
	if at != car {
		return nil, damaged("group %d ends at %d, the next starts at %d", i, at, car)
	}
	return out, nil
}
