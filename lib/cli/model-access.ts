// How commands load models.
import { loadModel, type Model } from "../models/model.js";

/** The option of commands that compute with a model. */
export interface ModelAccess {
  readonly gpuLayers: number;
}

export async function openModel(file: string, { gpuLayers }: ModelAccess, signal: AbortSignal): Promise<Model> {
  return await loadModel(file, { gpuLayers, signal });
}
