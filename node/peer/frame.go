package peer

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
)

// magic says what a frame holds.
type magic [4]byte

// The frames that nodes exchange before a connection is handed on.
func magicHello() magic  { return magic{'M', 'N', 'H', '1'} }
func magicJoin() magic   { return magic{'M', 'N', 'J', '1'} }
func magicAnswer() magic { return magic{'M', 'N', 'A', '1'} }

// frameHeaderLen: magic, payload length and CRC-32C, both big endian.
const frameHeaderLen = 12

// writeFrame sends one value as JSON, in one Write: magic, length, CRC-32C of
// magic, length and payload, payload.
func writeFrame(w io.Writer, m magic, v any, most int) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode frame %q: %w", m, err)
	}
	if len(payload) > most {
		return fmt.Errorf("encode frame %q: %d bytes, at most %d are allowed", m, len(payload), most)
	}
	b := make([]byte, frameHeaderLen, frameHeaderLen+len(payload))
	copy(b, m[:])
	binary.BigEndian.PutUint32(b[4:], uint32(len(payload)))
	binary.BigEndian.PutUint32(b[8:], frameSum(b[:8], payload))
	if _, err := w.Write(append(b, payload...)); err != nil {
		return fmt.Errorf("write frame %q: %w", m, err)
	}
	return nil
}

// readFrame reads one frame and not a byte more: what follows belongs to the
// protocol that was chosen. Fields of JSON that are not known are passed over,
// for the next release.
func readFrame(r io.Reader, m magic, v any, most int) error {
	header := make([]byte, frameHeaderLen)
	if _, err := io.ReadFull(r, header); err != nil {
		return fmt.Errorf("read frame %q: %w", m, err)
	}
	if magic(header) != m {
		return fmt.Errorf("read frame %q: it begins with %q", m, header[:4])
	}
	n := binary.BigEndian.Uint32(header[4:])
	if uint64(n) > uint64(most) {
		return fmt.Errorf("read frame %q: %d bytes, at most %d are allowed", m, n, most)
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		return fmt.Errorf("read frame %q: %w", m, err)
	}
	if frameSum(header[:8], payload) != binary.BigEndian.Uint32(header[8:]) {
		return fmt.Errorf("read frame %q: checksum differs", m)
	}
	if err := json.Unmarshal(payload, v); err != nil {
		return fmt.Errorf("read frame %q: %w", m, err)
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func frameSum(header, payload []byte) uint32 {
	return crc32.Update(crc32.Checksum(header, castagnoli), castagnoli, payload)
}
