package index

import (
	"encoding/binary"
	"hash/crc32"
)

// The form of Pebble's logs is LevelDB's: blocks of 32 KiB, in them chunks, of which
// none crosses a block. A chunk of a MANIFEST is CRC-32C (masked) 4, length 2, kind 1,
// payload; one of a write-ahead log of FormatWALSyncChunks has behind its kind the
// number of its log 4, and the offset 8 up to which that was synced when the chunk was
// written. All little-endian.
const (
	blockBytes          = 32 << 10
	manifestHeaderBytes = 7
	logHeaderBytes      = 19

	kindAt   = 6
	numberAt = 7
	syncedAt = 11

	firstNumberedKind = 5 // kinds of chunk from here on name their log
	firstSyncedKind   = 9 // and from here on how far it was synced
	lastKind          = 12
)

// chunkAt measures the chunk at the start of b, which ends where its block does. ok
// says that it is whole and matches its checksum; else its length, which may be
// damaged, can be more than b has.
func chunkAt(b []byte, headerBytes int) (size int, ok bool) {
	size = headerBytes + int(binary.LittleEndian.Uint16(b[4:]))
	return size, size <= len(b) && proves(b[:size])
}

// proves checks a chunk's CRC-32C, in the masked form of LevelDB's logs.
func proves(chunk []byte) bool {
	const maskDelta = 0xa282ead8
	c := crc32.Checksum(chunk[kindAt:], crc32.MakeTable(crc32.Castagnoli))
	return (c>>15|c<<17)+maskDelta == binary.LittleEndian.Uint32(chunk)
}

// logChunkAt measures a chunk of a write-ahead log; size is 0 when there is none.
func logChunkAt(b []byte, log uint32) (size int, synced uint64) {
	if len(b) < logHeaderBytes || b[kindAt] < firstSyncedKind || b[kindAt] > lastKind || binary.LittleEndian.Uint32(b[numberAt:]) != log {
		return 0, 0
	}
	size, ok := chunkAt(b, logHeaderBytes)
	if !ok {
		return 0, 0
	}
	return size, binary.LittleEndian.Uint64(b[syncedAt:])
}

// isOlderLogs reports whether b begins like a chunk of an older log: its file was
// given to a newer one.
func isOlderLogs(b []byte, log uint32) bool {
	return len(b) >= syncedAt && b[kindAt] >= firstNumberedKind && binary.LittleEndian.Uint32(b[numberAt:]) < log
}

func allZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
