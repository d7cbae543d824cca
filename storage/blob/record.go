// Package blob keeps message bodies, by GUID, in append-only pack files.
//
// A pack starts with a preamble that names its format, cluster and slot. A
// record starts at a multiple of 8 bytes:
//
//	magic     8  "MNRECORD"
//	version   1  1
//	encoding  1  0: as received
//	reserved  2
//	note      4  bytes of birth note
//	stored    8  bytes of body as stored
//	body ID   8
//	GUID     32  SHA-256 of the body as received
//	CRC-32C   4  of all of the above and the birth note
//	birth note (protobuf BirthNote), then the body
//
// Numbers are big-endian. The CRC proves header and note, the GUID proves the
// body (law 6). A place between records that holds anything else was reserved
// by a write that a crash cut off; a reader looks for the next magic.
package blob

import (
	"bytes"
	"encoding/binary"
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
	// maxNoteBytes bounds what a damaged length can ask for.
	maxNoteBytes = 16 << 20
)

// header is a record's fixed part.
type header struct {
	encoding  byte
	noteBytes uint32
	bodyBytes int64
	ref       slot.BodyRef
	crc       uint32
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendHead appends header and note in their stored form.
func appendHead(dst []byte, ref slot.BodyRef, bodyBytes int64, note *BirthNote) ([]byte, error) {
	n, err := proto.Marshal(note)
	if err != nil {
		return nil, fmt.Errorf("encode birth note of %s: %w", ref, err)
	}
	start := len(dst)
	dst = append(dst, recordMagic...)
	dst = append(dst, recordVersion, 0, 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(n)))
	dst = binary.BigEndian.AppendUint64(dst, uint64(bodyBytes))
	dst = binary.BigEndian.AppendUint64(dst, uint64(ref.ID))
	dst = append(dst, ref.GUID[:]...)
	crc := crc32.Update(crc32.Checksum(dst[start:], castagnoli), castagnoli, n)
	dst = binary.BigEndian.AppendUint32(dst, crc)
	return append(dst, n...), nil
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
	return h, h.encoding == 0 && h.noteBytes <= maxNoteBytes && h.bodyBytes >= 0
}

// proves says whether the CRC fits header and note.
func (h header) proves(fixed, note []byte) bool {
	return crc32.Update(crc32.Checksum(fixed[:headerBytes-4], castagnoli), castagnoli, note) == h.crc
}

// preamble is the start of every pack.
const (
	packMagic     = "MNPACK\x00\x01"
	preambleBytes = 64
)

func makePreamble(cluster string, id slot.ID) []byte {
	b := append(make([]byte, 0, preambleBytes), packMagic...)
	b = binary.BigEndian.AppendUint16(b, uint16(id))
	b = append(b, make([]byte, preambleBytes-4-len(b))...)
	copy(b[10:], cluster)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func checkPreamble(b []byte, cluster string, id slot.ID) error {
	switch want := makePreamble(cluster, id); {
	case bytes.Equal(b, want):
		return nil
	case len(b) == preambleBytes && crc32.Checksum(b[:preambleBytes-4], castagnoli) == binary.BigEndian.Uint32(b[preambleBytes-4:]):
		return fmt.Errorf("it belongs to another cluster or slot, or to a newer release")
	default:
		return fmt.Errorf("its first %d bytes are damaged", preambleBytes)
	}
}
