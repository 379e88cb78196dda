package tidemill.bench;

import java.util.Properties;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.KTable;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.processor.StateRestoreListener;
import org.apache.kafka.streams.state.KeyValueStore;

/**
 * Passes events of one topic on to another, or counts them per key and
 * publishes each new count or nothing, with Kafka Streams' exactly_once_v2, two
 * threads and otherwise its defaults.
 *
 * <p>Arguments: {@code forward | count | count-cached | tally}, brokers,
 * application id, directory for state, and any further settings as
 * {@code name=value}.
 */
public final class Main {
    private static final String IN = "bench-in";
    private static final String OUT = "bench-out";

    private Main() {}

    /** Runs until the process is ended. */
    public static void main(String[] arguments) {
        Properties settings = new Properties();
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, arguments[1]);
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, arguments[2]);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, arguments[3]);
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2);
        for (int number = 4; number < arguments.length; number++) {
            String[] setting = arguments[number].split("=", 2);
            settings.put(setting[0], setting[1]);
        }

        StreamsBuilder builder = new StreamsBuilder();
        switch (arguments[0]) {
            case "forward" -> forward(builder);
            case "count" -> publish(count(builder, false));
            case "count-cached" -> publish(count(builder, true));
            case "tally" -> count(builder, true);
            default -> throw new IllegalArgumentException(arguments[0]);
        }

        KafkaStreams streams = new KafkaStreams(builder.build(), settings);
        // The bench reads these lines to tell how long a restore takes.
        streams.setStateListener((now, before) -> say(now.name()));
        streams.setGlobalStateRestoreListener(new Restores());
        streams.start();
        Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
    }

    private static void forward(StreamsBuilder builder) {
        builder.stream(IN, Consumed.with(Serdes.ByteArray(), Serdes.ByteArray()))
                .to(OUT, Produced.with(Serdes.ByteArray(), Serdes.ByteArray()));
    }

    /** With a cache, updates of a key within a commit interval become one. */
    private static KTable<Bytes, Long> count(StreamsBuilder builder, boolean cached) {
        Materialized<Bytes, Long, KeyValueStore<Bytes, byte[]>> counts =
                Materialized.<Bytes, Long, KeyValueStore<Bytes, byte[]>>as("counts")
                        .withKeySerde(Serdes.Bytes())
                        .withValueSerde(Serdes.Long());
        counts = cached ? counts.withCachingEnabled() : counts.withCachingDisabled();
        KStream<Bytes, byte[]> events =
                builder.stream(IN, Consumed.with(Serdes.Bytes(), Serdes.ByteArray()));
        return events.groupByKey(Grouped.with(Serdes.Bytes(), Serdes.ByteArray())).count(counts);
    }

    private static void publish(KTable<Bytes, Long> counts) {
        counts.toStream()
                .mapValues(count -> Long.toString(count))
                .to(OUT, Produced.with(Serdes.Bytes(), Serdes.String()));
    }

    private static void say(String what) {
        System.out.println(System.currentTimeMillis() + " " + what);
    }

    /** Says when the first store begins to be read back. */
    private static final class Restores implements StateRestoreListener {
        @Override
        public void onRestoreStart(TopicPartition partition, String store, long from, long to) {
            say("RESTORING");
        }

        @Override
        public void onBatchRestored(TopicPartition partition, String store, long end, long rows) {}

        @Override
        public void onRestoreEnd(TopicPartition partition, String store, long rows) {
            say("RESTORED");
        }
    }
}
