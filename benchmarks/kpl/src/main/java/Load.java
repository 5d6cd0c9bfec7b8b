import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.Arrays;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicLongArray;
import java.util.concurrent.locks.LockSupport;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.google.common.util.concurrent.ListenableFuture;
import com.google.common.util.concurrent.MoreExecutors;
import software.amazon.awssdk.auth.credentials.AwsBasicCredentials;
import software.amazon.awssdk.auth.credentials.StaticCredentialsProvider;
import software.amazon.kinesis.producer.KinesisProducer;
import software.amazon.kinesis.producer.KinesisProducerConfiguration;
import software.amazon.kinesis.producer.UserRecordResult;

/**
 * Puts records with the KPL as benchmarks/producer.py asks: a job is a line of JSON on standard
 * input (see benchmarks/producer_protocol.py), and so is what came of it, on standard output.
 *
 * <p>Arguments: the port of the TLS endpoint on localhost, the most records to have outstanding,
 * then any of the KPL's own settings as {@code Name=value}.
 */
public final class Load {

    private static final ObjectMapper JSON = new ObjectMapper();

    private Load() {}

    /** Runs until standard input ends. */
    public static void main(String[] arguments) throws IOException, InterruptedException {
        PrintStream results = System.out;
        System.setOut(System.err); // whatever a library prints is no result
        KinesisProducer producer = new KinesisProducer(configuration(arguments));
        try {
            BufferedReader lines =
                    new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
            String line;
            while ((line = lines.readLine()) != null) {
                JsonNode job = JSON.readTree(line);
                Map<String, Object> done =
                        job.get("rate").asDouble() > 0
                                ? latency(producer, job)
                                : throughput(producer, job, Integer.parseInt(arguments[1]));
                results.println(JSON.writeValueAsString(done));
                results.flush();
            }
        } finally {
            producer.destroy();
        }
    }

    private static KinesisProducerConfiguration configuration(String[] arguments) {
        Properties settings = new Properties();
        for (int index = 2; index < arguments.length; index++) {
            String[] setting = arguments[index].split("=", 2);
            settings.setProperty(setting[0], setting[1]);
        }
        return KinesisProducerConfiguration.fromProperties(settings)
                .setKinesisEndpoint("localhost")
                .setKinesisPort(Integer.parseInt(arguments[0]))
                .setVerifyCertificate(false)
                .setRegion("us-east-1")
                .setCredentialsProvider(
                        StaticCredentialsProvider.create(
                                AwsBasicCredentials.create("test", "test")))
                .setMetricsLevel("none");
    }

    private static Map<String, Object> throughput(
            KinesisProducer producer, JsonNode job, int mostOutstanding)
            throws IOException, InterruptedException {
        ArrayDeque<Future<UserRecordResult>> waiting = new ArrayDeque<>(mostOutstanding);
        String stream = job.get("stream").asText();
        byte[] data = data(job);
        long first = job.get("first").asLong();
        long count = job.get("count").asLong();
        long confirmed = 0;
        long started = System.nanoTime();
        for (long number = first; number < first + count; number++) {
            // The KPL's own buffer has no bound.
            if (waiting.size() >= mostOutstanding) {
                confirmed += confirmed(waiting.remove());
            }
            waiting.add(producer.addUserRecord(stream, key(number), ByteBuffer.wrap(data)));
        }
        producer.flush();
        while (!waiting.isEmpty()) {
            confirmed += confirmed(waiting.remove());
        }
        return Map.of("confirmed", confirmed, "seconds", seconds(System.nanoTime() - started));
    }

    private static Map<String, Object> latency(KinesisProducer producer, JsonNode job)
            throws IOException, InterruptedException {
        String stream = job.get("stream").asText();
        byte[] data = data(job);
        long first = job.get("first").asLong();
        int count = job.get("count").asInt();
        double rate = job.get("rate").asDouble();
        AtomicLongArray took = new AtomicLongArray(count);
        ArrayDeque<Future<UserRecordResult>> all = new ArrayDeque<>(count);
        long started = System.nanoTime();
        for (int index = 0; index < count; index++) {
            long due = started + (long) (index / rate * 1e9);
            if (due - System.nanoTime() > 1_000_000) {
                LockSupport.parkNanos(due - System.nanoTime());
            }
            int place = index;
            long put = System.nanoTime();
            ListenableFuture<UserRecordResult> future =
                    producer.addUserRecord(stream, key(first + index), ByteBuffer.wrap(data));
            future.addListener(
                    () -> took.set(place, System.nanoTime() - put),
                    MoreExecutors.directExecutor());
            all.add(future);
        }
        long confirmed = 0;
        while (!all.isEmpty()) {
            confirmed += confirmed(all.remove());
        }
        double elapsed = seconds(System.nanoTime() - started);
        // A future is done a moment before its listener is called.
        producer.flushSync();
        long[] sorted = new long[count];
        for (int index = 0; index < count; index++) {
            sorted[index] = took.get(index);
        }
        Arrays.sort(sorted);
        return Map.of(
                "confirmed", confirmed,
                "seconds", elapsed,
                "p50_ms", sorted[count / 2] / 1e6,
                "p99_ms", sorted[(int) (count * 99L / 100)] / 1e6);
    }

    private static byte[] data(JsonNode job) {
        byte[] data = new byte[job.get("size").asInt()];
        Arrays.fill(data, (byte) 'x');
        return data;
    }

    private static String key(long number) {
        return "device-" + Long.toString(1_000_000_000L + number).substring(1);
    }

    private static double seconds(long nanoseconds) {
        return nanoseconds / 1e9;
    }

    private static long confirmed(Future<UserRecordResult> future)
            throws IOException, InterruptedException {
        try {
            return future.get().isSuccessful() ? 1 : 0;
        } catch (ExecutionException error) {
            throw new IOException(error.getCause());
        }
    }
}
