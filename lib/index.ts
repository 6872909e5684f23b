// The public face: re-exports only.
export { LatentError, latentErrorCodes, type LatentErrorCode, type LatentErrorOptions } from "./errors.js";
export {
  deviceMemory,
  deviceStatus,
  type Device,
  type DeviceChoice,
  type DeviceInfo,
  type DeviceMemory,
  type DeviceReason,
  type DeviceStatus,
} from "./devices.js";
export { SharedTensor, type SharedTensorReference } from "./shared-tensor.js";
export { Tensor, type Dtype, type TensorData } from "./tensor.js";
export {
  packAnchors,
  PackedAnchors,
  type AnchorWhitening,
  type PackAnchorsOptions,
  type Similarity,
  type TopK,
} from "./kernels/anchors.js";
export { packProjection, Projection, type PackProjectionOptions, type ProjectionLayer, type ProjectionNorm } from "./kernels/projection.js";
export { openTokenTable, TokenTable, type OpenTokenTableOptions, type RowFormat } from "./kernels/token-table.js";
export {
  createThoughtStep,
  ThoughtStep,
  type ThoughtInputs,
  type ThoughtRecipe,
  type ThoughtStatistics,
  type Thoughts,
} from "./kernels/thought.js";
export { hadamardTransform, packBits, TileCodec, unpackBits, type TileCodecOptions, type TilePayload } from "./kernels/tiles.js";
export {
  Codebook,
  FiniteScalarQuantiser,
  packCodebook,
  residualDequantise,
  residualQuantise,
  waterFilling,
  wholeBits,
  type BitSplit,
  type Nearest,
  type PackCodebookOptions,
  type WholeBitsOptions,
} from "./kernels/codebook.js";
export {
  blake3,
  digest128,
  drift,
  entropyBits,
  firstNonFiniteRow,
  rowNorms,
  RunningMean,
  type Drift,
  type RowOptions,
} from "./kernels/statistics.js";
export { transpose } from "./kernels/transpose.js";
export type { Rows, Storage } from "./kernels/input.js";
export {
  accumulateMoments,
  Moments,
  type MomentsOptions,
  type Pca,
  type Procrustes,
  type ProcrustesOptions,
  type RidgeOptions,
  type Whitening,
} from "./fits/moments.js";
export type { GccaHub, GccaOptions, GeneralisedProcrustesOptions, HubSpace, ProcrustesHub } from "./fits/hub.js";
export { leastSquares, type LeastSquaresOptions, type LinearFit } from "./fits/linear.js";
export {
  parsevalFrame,
  svd,
  symmetricEigen,
  type ParsevalFrame,
  type ParsevalFrameOptions,
  type Svd,
  type SvdOptions,
  type SymmetricEigen,
} from "./fits/decompositions.js";
export { farthestPoints, kmeans, type FarthestPointsOptions, type Kmeans, type KmeansOptions } from "./fits/representatives.js";
export { logisticRegression, type LogisticFit, type LogisticOptions, type LogisticReport } from "./fits/logistic.js";
export { EmpiricalDistribution } from "./fits/distribution.js";
export type { RowDistance, RowSource } from "./fits/input.js";
export { Latent, type LatentKind, type LatentReference } from "./spaces/latent.js";
export type { Space } from "./spaces/space.js";
export { createEncoder, type CreateEncoderOptions, type Encoder, type Vectors } from "./spaces/encoder.js";
export { AnchorSet, selectAnchors, type AnchorSetJson, type SelectAnchorsOptions } from "./spaces/anchors.js";
export { fitTransform, RowTransform, type TransformKind } from "./spaces/transforms.js";
export { relativeMismatch, RelativeSpace, type RelativeCodes, type RelativeOptions, type RelativeSimilarity } from "./spaces/relative.js";
export { relativeAgreement, type RelativeAgreement, type RelativeAgreementOptions } from "./spaces/agreement.js";
export { Translator, type TranslatorCard } from "./spaces/translator.js";
export type { FitProgress, FitTranslatorOptions, SlotMaps } from "./spaces/fit.js";
export type { TranslatorMethod } from "./spaces/methods.js";
export type { HeldOutQuality, TranslatorReport, Trial, Verdict } from "./spaces/report.js";
export { fitUnsupervised, type UnsupervisedOptions } from "./spaces/unsupervised.js";
export { importProjector, type ImportProjectorOptions, type ProjectorLayer } from "./spaces/projector.js";
export { compressMaps, SpaceHub, type CompressedMaps, type SpaceHubOptions } from "./spaces/hub.js";
export { WormholeCodec, type WormholeConfig, type WormholeDelta } from "./spaces/wormhole-codec.js";
export { fitHubMaps, Wormhole, type FitHubMapsOptions, type HubMapQuality, type HubMaps, type WormholeOptions } from "./spaces/wormhole.js";
export { injectSpan, resampleRows, type InjectSpanOptions } from "./spaces/injection.js";
export { addNoise, quantiseRows, type NoisyRows } from "./spaces/channel.js";
export {
  anchorCoverage,
  canonicalCorrelations,
  cknna,
  jaccard,
  linearCka,
  mutualKnn,
  predictionError,
  procrustesDistance,
  rbfCka,
  retrieval,
  spectrum,
  svcca,
  unbiasedCka,
  type CanonicalOptions,
  type MeasureOptions,
  type PredictionError,
  type Retrieval,
  type RetrievalOptions,
  type Spectrum,
} from "./spaces/metrics.js";
export { parseNpy, readNpy, writeNpy } from "./files/npy.js";
export { parseSafetensors, readSafetensors, writeSafetensors, type Safetensors } from "./files/safetensors.js";
export { tokenTranslator, type TokenTranslatorOptions } from "./models/token-translator.js";
export { loadModel, Model, type LoadModelOptions, type LoadProgress, type ModelInfo, type PoolOptions } from "./models/model.js";
export { modelEncoder, type ModelEncoderOptions } from "./models/model-encoder.js";
export { gatherPairs, LatentPairs, type Gathering, type GatherPairsOptions } from "./models/gather.js";
export { fitTranslator, type FitModelsOptions, type FitOptions } from "./models/fit-translator.js";
export { bundledModel } from "./models/bundled.js";
export { loadRuntime, type RuntimeInfo } from "./models/runtime.js";
export { Pool, type KvType, type PoolCounters, type PoolInfo } from "./models/pool.js";
export {
  Sequence,
  type ExportDeviceKvOptions,
  type ExportKvOptions,
  type ImportKvOptions,
  type KvImport,
  type KvReceipt,
  type KvWay,
  type PrefillInput,
  type PrefillOptions,
  type ReceiveKvOptions,
  type SignalOption,
  type ThinkOptions,
  type ThinkStep,
} from "./models/sequence.js";
export {
  KvHandle,
  type KvFormat,
  type KvInfo,
  type KvRange,
  type KvRecordsOptions,
  type KvReference,
  type KvRows,
  type KvTicket,
  type KvTile,
} from "./kv/handle.js";
export type { KvCodec, KvCodecChoice, KvCodecName, KvPart, KvPlugin, KvTileShape } from "./kv/codec.js";
export type { KvIdentity } from "./kv/identity.js";
export { alignTokens, C2cFuser, type C2cFuseOptions, type C2cInfo } from "./kv/c2c.js";
export { Kvtc } from "./kv/kvtc.js";
export { decryptKv, encryptKv } from "./kv/encryption.js";
export { KvLease } from "./kv/lease.js";
export type { KvLinkOptions } from "./kv/channel.js";
export { sendKv, type KvArrival, type KvReceived, type KvReceiveOptions, type KvSendOptions, type KvSent } from "./kv/link.js";
export {
  KvMeter,
  planHandOver,
  type HandOverCost,
  type HandOverOptions,
  type HandOverPlan,
  type HandOverWay,
  type KvRates,
} from "./kv/planner.js";
export type { PrefillRecordsOptions, PrefillText } from "./kv/prefill-records.js";
export { kvQuality, type KvQuality, type KvQualityOptions } from "./kv/quality.js";
export { KvReceiver, type KvReadOptions, type KvReceiverOptions } from "./kv/receiver.js";
export { KvShared, type KvSharedReference } from "./kv/shared.js";
export { DeviceKv, DeviceKvShared, type DeviceKvReference } from "./kv/device-kv.js";
export type { KvSigner, KvVerifier } from "./kv/signature.js";
export type { KvSource } from "./kv/source.js";
export type { KvSpot } from "./kv/spot.js";
export { KvStore, type KvPut, type KvPutOptions, type KvStoreOptions, type KvStoreStats, type KvTierStats } from "./kv/store.js";
export type { GenerateOptions, GeneratedToken, Generation, GenerationResult } from "./models/generation.js";
export type { ChatMessage } from "./models/chat.js";
export type { HiddenThought, ThoughtPolicy, TokenThought } from "./policies/thought.js";
export { Agent, type AgentOptions, type Note } from "./agents/agent.js";
export { pipe, type Pipe, type PipeOptions } from "./agents/pipe.js";
export { team, type JoinMode, type Team, type TeamOptions } from "./agents/team.js";
export type { Hop, HopTranslator, Medium, RunEvent, RunResult, RunStream, RunTotals, StoredPositions, StoreUse } from "./agents/events.js";
export { connect, type ConnectOptions } from "./bus/connect.js";
export { Bus, type Content, type SendOptions, type Sent, type TapEvent } from "./bus/bus.js";
export type { BusSettings } from "./bus/options.js";
export type { BusKey, BusTrust } from "./bus/notary.js";
export type { Offer } from "./bus/form.js";
export type { Accepts, Announcement } from "./bus/announcement.js";
export type { Envelope, MessageKind } from "./bus/envelope.js";
export type { ContentClaim, KvClaim, LatentClaim, Place, Way } from "./bus/claim.js";
export { Inbox, type InboxOptions } from "./bus/inbox.js";
export { Message, type DeadLetter } from "./bus/message.js";
export { Parcel, type ParcelReference } from "./bus/parcel.js";
export {
  RemoteAgent,
  type AskOptions,
  type BusHop,
  type Received,
  type RemoteAnswer,
  type RemoteReply,
  type RemoteThought,
} from "./bus/remote-agent.js";
export type { AgentCounts, SentGenerateOptions } from "./bus/request.js";
export { Served, type ServedAgentCounts, type ServedCounts, type ServeOptions } from "./bus/serve.js";
export { chatCompletions, type ChatCompletions, type ChatCounts, type ChatOptions } from "./bus/chat-completions.js";
export { Hub, listen, type HubCloseOptions, type HubOptions, type HubTls } from "./bus/brokers/hub/hub.js";
export type { MemoryLimits } from "./bus/brokers/memory-broker.js";
export type { NatsOptions, NatsTls } from "./bus/brokers/nats/nats-broker.js";
export {
  evaluate,
  type EvalExample,
  type EvalModel,
  type EvalResult,
  type EvalTranslators,
  type EvaluateOptions,
} from "./eval/evaluate.js";
export { chanceOf, isRight, type AnswerCheck } from "./eval/answers.js";
export type { Arm, ArmMessage, ArmPolicy } from "./eval/arms.js";
export { openJournal, type EvalSettings, type Journal } from "./eval/journal.js";
export { relaySuite, relayTexts } from "./eval/relay.js";
export { numbersOf, type Accuracy, type ArmResult, type Comparison, type EvalNumbers } from "./eval/result.js";
export {
  runSuite,
  type Block,
  type EvalBudget,
  type EvalProgress,
  type EvalRun,
  type EvalSubject,
  type ItemRecord,
  type Outcome,
  type RunSuiteOptions,
  type StageTimes,
} from "./eval/run.js";
export { mcnemar, pairedDifference, wilson, type Interval } from "./eval/statistics.js";
export { parseSuite, readSuite, type Suite, type SuiteItem, type SuitePrompts } from "./eval/suite.js";
export { toHtml } from "./eval/html.js";
export { toMarkdown } from "./eval/markdown.js";
export { claimsOf, verdictOf, type Claim, type Relation } from "./eval/verdict.js";
