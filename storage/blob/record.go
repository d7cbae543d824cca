// Package blob keeps message bodies, by GUID, in append-only pack files.
//
// A pack starts with a preamble that names its format, cluster and slot. A
// record starts at a multiple of 8 bytes:
//
//	magic     8  "MNRECORD"
//	version   1  1
//	encoding  1  0: as received, 1: zstd
//	reserved  2
//	note      4  bytes of birth note
//	stored    8  bytes of body as stored
//	body ID   8
//	GUID     32  SHA-256 of the body as received
//	CRC-32C   4  of all of the above, the body's size and the birth note
//	size      8  bytes of body as received; only there when it is encoded
//	birth note (protobuf BirthNote), then the body
//
// Numbers are big-endian. The CRC proves header and note, the GUID proves the
// body (law 6). A place between records that holds anything else was reserved
// by a write that a crash cut off; a reader looks for the next magic.
package blob

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"google.golang.org/protobuf/proto"

	"mailnode/storage/slot"
)

const (
	recordMagic   = "MNRECORD"
	recordVersion = 1
	headerBytes   = 68
	alignBytes    = 8
	sizeBytes     = 8 // of the body's size, behind the header of an encoded body
	// maxNoteBytes bounds what a damaged length can ask for.
	maxNoteBytes = 16 << 20
)

// Encodings of a body in a pack.
const (
	plainBody = 0
	zstdBody  = 1
)

// EncodedBytesMax is the size, as received, above which a body is never
// encoded: an encoded one is decoded whole, in memory, before it is proved.
const EncodedBytesMax = 4 << 20

// header is a record's fixed part.
type header struct {
	encoding  byte
	noteBytes uint32
	bodyBytes int64 // as stored
	ref       slot.BodyRef
	crc       uint32
}

// extra returns how many bytes lie between header and note.
func extra(encoding byte) int64 {
	if encoding == plainBody {
		return 0
	}
	return sizeBytes
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendHead appends header and note in their stored form.
func appendHead(dst []byte, ref slot.BodyRef, bodyBytes int64, note *BirthNote) ([]byte, error) {
	n, err := proto.Marshal(note)
	if err != nil {
		return nil, fmt.Errorf("encode birth note of %s: %w", ref, err)
	}
	return appendEncoded(dst, ref, Location{Size: bodyBytes}, n), nil
}

// appendEncoded appends the head of a record whose body is encoded as loc says;
// note is in its stored form.
func appendEncoded(dst []byte, ref slot.BodyRef, loc Location, note []byte) []byte {
	start := len(dst)
	dst = append(dst, recordMagic...)
	dst = append(dst, recordVersion, loc.Encoding, 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(note)))
	dst = binary.BigEndian.AppendUint64(dst, uint64(loc.stored()))
	dst = binary.BigEndian.AppendUint64(dst, uint64(ref.ID))
	dst = append(dst, ref.GUID[:]...)
	var size []byte
	if loc.Encoding != plainBody {
		size = binary.BigEndian.AppendUint64(nil, uint64(loc.Size))
	}
	crc := crc32.Checksum(dst[start:], castagnoli)
	crc = crc32.Update(crc32.Update(crc, castagnoli, size), castagnoli, note)
	dst = binary.BigEndian.AppendUint32(dst, crc)
	return append(append(dst, size...), note...)
}

// parseHeader reads a fixed part; ok is false when it cannot be one.
func parseHeader(b []byte) (h header, ok bool) {
	if len(b) < headerBytes || string(b[:8]) != recordMagic || b[8] != recordVersion {
		return h, false
	}
	h.encoding = b[9]
	h.noteBytes = binary.BigEndian.Uint32(b[12:])
	h.bodyBytes = int64(binary.BigEndian.Uint64(b[16:]))
	h.ref.ID = slot.BodyID(binary.BigEndian.Uint64(b[24:]))
	copy(h.ref.GUID[:], b[32:64])
	h.crc = binary.BigEndian.Uint32(b[64:])
	return h, h.encoding <= zstdBody && h.noteBytes <= maxNoteBytes && h.bodyBytes >= 0
}

// proves reports whether the CRC fits the header and what lies before the body:
// the size of an encoded one, and the note.
func (h header) proves(fixed, rest []byte) bool {
	return crc32.Update(crc32.Checksum(fixed[:headerBytes-4], castagnoli), castagnoli, rest) == h.crc
}

// at returns the place of a record that begins at an offset, from its header and
// what lies before its body; ok is false when it contradicts itself.
func (h header) at(pack uint32, offset int64, rest []byte) (loc Location, ok bool) {
	loc = Location{Pack: pack, Offset: offset + headerBytes + int64(len(rest)), Size: h.bodyBytes, NoteBytes: h.noteBytes}
	if h.encoding != plainBody {
		loc.Encoding, loc.Stored = h.encoding, h.bodyBytes
		loc.Size = int64(binary.BigEndian.Uint64(rest))
		return loc, loc.Size >= 0 && loc.Size <= EncodedBytesMax
	}
	return loc, true
}

// A preamble is the start of every pack. Its magic also says who wrote the
// pack: the Puts of deliveries, or a Rewriter, which has encoded what shrinks.
const (
	packMagic      = "MNPACK\x00\x01"
	rewrittenMagic = "MNPACK\x00\x02"
	preambleBytes  = 64
)

func makePreamble(magic, cluster string, id slot.ID) []byte {
	b := append(make([]byte, 0, preambleBytes), magic...)
	b = binary.BigEndian.AppendUint16(b, uint16(id))
	b = append(b, make([]byte, preambleBytes-4-len(b))...)
	copy(b[10:], cluster)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// errForeign says that a pack is whole, and not of this slot or not for this
// release.
var errForeign = errors.New("it belongs to another cluster or slot, or to a newer release")

func checkPreamble(b []byte, cluster string, id slot.ID) (rewritten bool, err error) {
	switch {
	case bytes.Equal(b, makePreamble(packMagic, cluster, id)):
		return false, nil
	case bytes.Equal(b, makePreamble(rewrittenMagic, cluster, id)):
		return true, nil
	case len(b) == preambleBytes && crc32.Checksum(b[:preambleBytes-4], castagnoli) == binary.BigEndian.Uint32(b[preambleBytes-4:]):
		return false, errForeign
	default:
		return false, fmt.Errorf("its first %d bytes are damaged", preambleBytes)
	}
}
