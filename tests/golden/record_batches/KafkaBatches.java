// Writes record_batches.json: record batches as Kafka's own Java code writes them.
// How to run it stands in README.md beside it.

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.CompressionType;
import org.apache.kafka.common.record.ControlRecordType;
import org.apache.kafka.common.record.DefaultRecordBatch;
import org.apache.kafka.common.record.EndTransactionMarker;
import org.apache.kafka.common.record.MemoryRecordsBuilder;
import org.apache.kafka.common.record.TimestampType;

public class KafkaBatches {
    static final long NOW = 1700000000000L;
    static String separator = "";

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static MemoryRecordsBuilder builder(CompressionType type, TimestampType timestampType, long producerId,
                                        short epoch, int sequence, boolean transactional, boolean control) {
        return new MemoryRecordsBuilder(ByteBuffer.allocate(1 << 16), (byte) 2, Compression.of(type).build(),
            timestampType, 42L, NOW + 7777, producerId, epoch, sequence, transactional, control, 5, 1 << 16);
    }

    static void few(MemoryRecordsBuilder builder) {
        builder.append(NOW, null, bytes("hello"));
        builder.append(NOW + 5, bytes("k"), null, new Header[] {
            new RecordHeader("h", bytes("v")), new RecordHeader("h", (byte[]) null)});
        builder.append(NOW - 3, bytes(""), bytes(""), new Header[] {new RecordHeader("é", bytes(""))});
    }

    static void fill(MemoryRecordsBuilder builder) {
        few(builder);
        builder.append(NOW + 100000, bytes("k".repeat(100)), bytes("seawall ".repeat(1200)));
        builder.append(NOW + 100000, (byte[]) null, (byte[]) null);
        for (int i = 5; i < 70; i++)
            builder.append(NOW + i, null, bytes("value " + i));
    }

    static void print(String name, ByteBuffer buffer) {
        StringBuilder hex = new StringBuilder();
        while (buffer.hasRemaining())
            hex.append(String.format("%02x", buffer.get()));
        System.out.print(separator + "  \"" + name + "\": \"" + hex + "\"");
        separator = ",\n";
    }

    static void finish(String name, MemoryRecordsBuilder builder) {
        print(name, builder.build().buffer());
    }

    public static void main(String[] args) {
        System.out.println("{");
        for (CompressionType type : CompressionType.values()) {
            MemoryRecordsBuilder b = builder(type, TimestampType.CREATE_TIME, -1, (short) -1, -1, false, false);
            fill(b);
            finish(type.name, b);
        }
        MemoryRecordsBuilder b = builder(CompressionType.NONE, TimestampType.LOG_APPEND_TIME, -1, (short) -1, -1, false, false);
        few(b);
        finish("log append time", b);
        b = builder(CompressionType.NONE, TimestampType.CREATE_TIME, 4000, (short) 3, 17, true, false);
        few(b);
        finish("transactional", b);
        b = builder(CompressionType.NONE, TimestampType.CREATE_TIME, 4000, (short) 3, -1, true, true);
        b.appendEndTxnMarker(NOW, new EndTransactionMarker(ControlRecordType.COMMIT, 9));
        finish("commit marker", b);
        ByteBuffer hole = ByteBuffer.allocate(61);
        DefaultRecordBatch.writeEmptyHeader(hole, (byte) 2, -1, (short) -1, -1, 42, 51, 5,
            TimestampType.CREATE_TIME, NOW, false, false);
        hole.flip();
        print("empty", hole);
        System.out.println("\n}");
    }
}
